"""Sheets: everything is on the paper, nothing is cut off, pictures keep their pixels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.errors import InputError
from engine.picture import sheet
from engine.picture.sheet import labelled_grid, overlay_map


def picture(width: int = 128, height: int = 128, level: int = 90) -> Image.Image:
    values = np.random.default_rng(level).integers(level, level + 60, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def layout_of(rows: list[list[sheet.Cell]], **options: object) -> sheet._Layout:
    """The places that the sheet would be drawn with."""
    caught: list[sheet._Layout] = []
    with pytest.MonkeyPatch.context() as patch:
        draw = sheet._draw

        def catch(layout: sheet._Layout) -> Image.Image:
            caught.append(layout)
            return draw(layout)

        patch.setattr(sheet, "_draw", catch)
        labelled_grid(rows, **options)  # type: ignore[arg-type]
    return caught[0]


def boxes(layout: sheet._Layout) -> list[tuple[int, int, int, int]]:
    found = [(x, y, x + p.width, y + p.height) for p, (x, y) in layout.pictures]
    found += layout.empty
    return found + [(x, y, x + t.width, y + t.height) for t, (x, y) in layout.texts]


words = st.text(st.sampled_from("ab mil_W."), max_size=60)
cells = st.tuples(
    st.one_of(
        st.none(),
        st.builds(picture, st.sampled_from([5, 128, 300, 700]), st.sampled_from([7, 128, 600])),
    ),
    words,
)


@given(
    st.lists(st.lists(cells, min_size=1, max_size=3), min_size=1, max_size=3),
    st.one_of(st.none(), words),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_nothing_is_cut_off_and_nothing_overlaps(
    rows: list[list[sheet.Cell]], title: str | None, labels: bool
) -> None:
    options: dict[str, object] = {"title": title}
    if labels:
        options["columns"] = [f"column {i}" for i in range(max(map(len, rows)))]
        options["row_labels"] = [f"a rather long label of row {i}" for i in range(len(rows))]
    layout = layout_of(rows, **options)
    width, height = layout.size
    placed = boxes(layout)
    for left, top, right, bottom in placed:
        assert left >= 16
        assert top >= 16
        assert right <= width - 16
        assert bottom <= height - 16
    for i, (left, top, right, bottom) in enumerate(placed):
        for other in placed[:i]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart or left == right or other[0] == other[2]


@given(words, st.integers(40, 300))
@settings(max_examples=60, deadline=None)
def test_wrapped_text_holds_every_letter_and_fits(text: str, width: int) -> None:
    wrapped = sheet._wrap(text, width, 15)
    assert "".join(wrapped.lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped.width <= width


def test_captions_keep_their_line_breaks() -> None:
    wrapped = sheet._wrap("differential\n1.3 s\n\nscore 0.8", 200, 15)
    assert wrapped.lines == ("differential", "1.3 s", "", "score 0.8")
    assert wrapped.soft_from == 1


@pytest.mark.parametrize(
    ("size", "cell", "shown"),
    [
        ((128, 128), None, (256, 256)),
        ((64, 32), None, (256, 128)),
        ((200, 100), None, (200, 100)),
        ((451, 300), None, (451, 300)),
        ((1024, 512), None, (512, 256)),
        ((2000, 1), None, (512, 1)),
        ((1, 2000), None, (1, 512)),
        ((128, 128), 512, (512, 512)),
        ((300, 200), 150, (150, 100)),
    ],
)
def test_pictures_grow_by_whole_factors_and_shrink_to_fit(
    size: tuple[int, int], cell: int | None, shown: tuple[int, int]
) -> None:
    layout = layout_of([[(picture(*size), "caption")]], cell=cell)
    assert layout.pictures[0][0].size == shown


def test_pictures_that_need_no_resizing_keep_their_pixels() -> None:
    source = picture(300, 200)
    layout = layout_of([[(source, "")]])
    drawn, (x, y) = layout.pictures[0]
    paper = labelled_grid([[(source, "")]])
    assert paper.mode == "RGB"
    np.testing.assert_array_equal(
        np.asarray(paper)[y : y + drawn.height, x : x + drawn.width], np.asarray(source)
    )


def test_columns_and_rows_are_aligned() -> None:
    rows: list[list[sheet.Cell]] = [
        [(picture(), "a"), (picture(64, 100), "b"), (None, "c")],
        [(picture(), "d\nwith\nlines"), (picture(), "e")],
        [(picture(), "f"), (picture(), "g"), (picture(), "h")],
    ]
    layout = layout_of(rows)
    places = [place for _, place in layout.pictures]
    assert len({x for x, _ in places}) == 3
    assert len({y for _, y in places}) == 3
    assert places[0][0] == places[2][0] == places[4][0]
    gaps = [b - a for a, b in pairwise(sorted({x for x, _ in places}))]
    assert gaps[0] == gaps[1]


def test_transparent_pictures_lie_on_a_board() -> None:
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    board = np.asarray(sheet._on_board(clear))
    assert set(np.unique(board)) == {208, 255}
    assert (board == board[:, :, :1]).all()
    for mode in ("1", "L", "LA", "P", "CMYK", "RGBA"):
        labelled_grid([[(Image.new(mode, (8, 8)), mode)]])


def test_sheets_that_cannot_be() -> None:
    empty: list[list[list[sheet.Cell]]] = [[], [[]], [[], []]]
    for rows in empty:
        with pytest.raises(InputError, match="at least one"):
            labelled_grid(rows)
    row: list[sheet.Cell] = [(picture(), "a")]
    with pytest.raises(InputError, match="2 column headings given for 1"):
        labelled_grid([row], columns=["a", "b"])
    with pytest.raises(InputError, match="2 row labels given for 1"):
        labelled_grid([row], row_labels=["a", "b"])
    with pytest.raises(InputError, match="at least 16"):
        labelled_grid([row], cell=8)


def test_a_sheet_without_pictures_is_still_a_sheet() -> None:
    labelled_grid([[(None, "not run")]], title="nothing")


# --- maps over pictures --------------------------------------------------------------------------


def test_the_overlay_shows_untouched_pixels_as_they_are() -> None:
    rgb = np.asarray(picture())
    strength = np.zeros((128, 128), np.float32)
    strength[40:90, 30:100] = np.linspace(0.05, 1, 70)
    for source in (rgb, Image.fromarray(rgb)):
        shown = np.asarray(overlay_map(source, strength))
        np.testing.assert_array_equal(shown[strength == 0], rgb[strength == 0])
        assert (shown[strength > 0] != rgb[strength > 0]).any(axis=1).all()
        assert shown[40, 50].tolist() == [255, 255, 255]  # the outline


def test_stronger_is_redder() -> None:
    rgb = np.full((64, 300, 3), 128, np.uint8)
    strength = np.linspace(0.01, 1, 300)[None].repeat(64, axis=0)
    shown = np.asarray(overlay_map(rgb, strength)).astype(int)[32]
    plain = shown[[10, 100, 180, 290]]
    assert (np.diff(plain[:, 1]) < 0).all()  # green falls


def test_maps_of_0_and_1_have_no_outline() -> None:
    rgb = np.asarray(picture())
    np.testing.assert_array_equal(np.asarray(overlay_map(rgb, np.zeros((128, 128)))), rgb)
    assert not (np.asarray(overlay_map(rgb, np.ones((128, 128)))) == 255).all(axis=2).any()


def test_overlays_that_cannot_be() -> None:
    with pytest.raises(InputError, match="strength map"):
        overlay_map(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9)))
    with pytest.raises(InputError, match="uint8"):
        overlay_map(np.zeros((8, 8)), np.zeros((8, 8)))  # type: ignore[arg-type]

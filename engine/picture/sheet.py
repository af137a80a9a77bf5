"""Labelled sheets: pictures side by side, with captions, to be looked at by a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.errors import InputError
from engine.picture.masks import distance_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Cell", "heat_map", "labelled_grid", "overlay_map", "text_table"]

Cell: TypeAlias = "tuple[Image.Image | None, str]"
"""A picture (None leaves its place empty) and its caption."""

_Font: TypeAlias = "ImageFont.ImageFont | ImageFont.FreeTypeFont"
_Colour: TypeAlias = tuple[int, int, int]

_BACKGROUND: Final[_Colour] = (244, 244, 244)  # neutral: a tint would shift the pictures' colours
_EMPTY: Final[_Colour] = (232, 232, 232)
_FRAME: Final[_Colour] = (190, 190, 190)
_INK: Final[_Colour] = (24, 24, 24)
_SOFT_INK: Final[_Colour] = (96, 96, 96)
_CHECKER: Final = (255, 208)  # greys of the board under transparent pixels

_TEXT_SIZE: Final = 15
_HEADER_SIZE: Final = 17
_TITLE_SIZE: Final = 22
_MARGIN: Final = 24
_GAP: Final = 20
_PAD: Final = 7  # between a picture and its caption
_MIN_CELL: Final = 256
_MAX_CELL: Final = 512
_MIN_COLUMN: Final = 144  # px: about 18 letters, so that captions do not break at every word
_ROW_LABEL: Final = 200


def labelled_grid(
    rows: Sequence[Sequence[Cell]],
    *,
    title: str | None = None,
    columns: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    cell: int | None = None,
) -> Image.Image:
    """Draw a sheet of pictures with captions.

    Captions stand under their pictures, wrapped to the column's width and never cut off; a line
    break in a caption is kept, and the lines after the first are printed lighter. Pictures larger
    than ``cell`` are reduced (Lanczos); smaller ones are enlarged by the largest whole factor that
    fits (bicubic: the pixels of small pictures are blended rather than shown as squares).
    Transparent pictures lie on a chequerboard.

    Args:
        rows: One sequence of ``(picture, caption)`` for each row; rows may differ in length.
        title: A line above the sheet, wrapped to its width.
        columns: Headings above the columns.
        row_labels: Texts left of the rows.
        cell: Largest side of a picture on the sheet in px, at least 16; None = the longest side
            among the pictures, but no less than 256 and no more than 512.

    Returns:
        An RGB image.

    Raises:
        InputError: There are no cells, more headings than columns or labels than rows, or ``cell``
            is below 16.
    """
    count = max((len(row) for row in rows), default=0)
    if count == 0:
        raise InputError("a sheet needs at least one picture")
    if columns is not None and len(columns) > count:
        raise InputError(f"{len(columns)} column headings given for {count} columns")
    if row_labels is not None and len(row_labels) > len(rows):
        raise InputError(f"{len(row_labels)} row labels given for {len(rows)} rows")
    if cell is None:
        sides = [max(picture.size) for row in rows for picture, _ in row if picture is not None]
        cell = min(max([_MIN_CELL, *sides]), _MAX_CELL)
    if cell < 16:
        raise InputError(f"cell must be at least 16 px, not {cell}")
    shown = [[(_fit(picture, cell), caption) for picture, caption in row] for row in rows]
    return _draw(_lay_out(shown, count, title, columns, row_labels))


def text_table(lines: Sequence[Sequence[str]], *, rule: bool = False) -> str:
    """Lines of cells as aligned text: the first column to the left, the others to the right.

    ``rule`` draws one under the first line. All lines have the same number of cells.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    drawn = [["-" * width for width in widths]] if rule else []
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [*lines[:1], *drawn, *lines[1:]]
    )


def overlay_map(
    rgb: NDArray[np.uint8] | Image.Image, strength_map: NDArray[np.floating[Any]]
) -> Image.Image:
    """Show a strength map over its picture, as a heat map with an outline.

    Pixels of strength 0 are shown as they are. The others are tinted from yellow (weak) to crimson
    (strong), the stronger the more; a white line with a dark rim runs along the inner border of
    the area that may change, and thin dark lines along strengths 1/4, 1/2 and 3/4.

    Args:
        rgb: ``uint8 (H, W, 3)``, or a Pillow image of any mode.
        strength_map: ``(H, W)`` in [0, 1], 1 = repaint.

    Returns:
        An RGB image of the same size.

    Raises:
        InputError: Shapes or types do not fit.
    """
    if isinstance(rgb, Image.Image):
        rgb = np.asarray(_on_board(rgb))
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise InputError(f"uint8 (H, W, 3) is needed, not {rgb.dtype} {rgb.shape}")
    if strength_map.shape != rgb.shape[:2]:
        raise InputError(f"a strength map of shape {strength_map.shape} for a {rgb.shape} picture")
    strength = np.clip(strength_map, 0, 1).astype(np.float32)
    support = strength > 0
    # Yellow, orange, crimson: hue and lightness both fall, so it also reads without colour vision.
    stops = np.array([[255, 226, 70], [247, 126, 30], [200, 10, 70]], np.float32)
    tint = np.stack([np.interp(strength, (0, 0.5, 1), stops[:, c]) for c in range(3)], axis=2)
    weight = np.where(support, 0.3 + 0.25 * strength, 0)[:, :, None]
    image = rgb * (1 - weight) + tint * weight
    width = max(1, round(min(strength.shape) / 256))
    for level in (0.25, 0.5, 0.75):
        line = _inner_edge(strength >= level, width) & ~_inner_edge(support, 5 * width)
        image[line] *= 0.6
    image[_inner_edge(support, 2 * width)] = (30, 30, 30)
    image[_inner_edge(support, width)] = (255, 255, 255)
    return Image.fromarray(image.round().astype(np.uint8))


def heat_map(
    rgb: NDArray[np.uint8] | Image.Image, strength_map: NDArray[np.floating[Any]]
) -> Image.Image:
    """:func:`overlay_map` with a legend under it: the colours of the strengths, and how much of the
    picture is kept, repainted in part and repainted wholly.

    Small pictures are enlarged as on a sheet; large ones keep their size.
    """
    shown = overlay_map(rgb, strength_map)
    small = shown.width < _MIN_CELL
    picture = _fit(shown, _MIN_CELL) if small else shown
    assert picture is not None  # noqa: S101 - it has been given
    width = picture.width
    # On the greys that the picture's own colours are mixed with on average.
    ramp = np.tile(np.linspace(0, 1, max(width - 2 * _PAD, 1), dtype=np.float32), (_GAP, 1))
    below = np.full((*ramp.shape, 3), 128, np.uint8)
    bar = np.asarray(overlay_map(below, ramp))
    whole, kept = float((strength_map == 1).mean()), float((strength_map == 0).mean())
    shares = (
        f"{kept:.1%} kept",
        f"{1 - kept - whole:.1%} in part",
        f"{whole:.1%} wholly repainted",
    )
    text = _wrap(", ".join(shares), width - 2 * _PAD, _TEXT_SIZE)
    ticks = {0.0: "0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1.0: "1"}
    height = picture.height + _PAD + _GAP + 2 * _PAD + (len(text.lines) + 1) * text.line_height
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    sheet.paste(picture, (0, 0))
    top = picture.height + _PAD
    sheet.paste(Image.fromarray(bar), (_PAD, top))
    draw = ImageDraw.Draw(sheet)
    top += _GAP + _PAD // 2
    for level, label in ticks.items():
        wide = _width(text.font, label)
        x = _PAD + level * bar.shape[1] - wide / 2
        x = min(max(x, _PAD), width - _PAD - wide)
        draw.text((round(x), top), label, fill=_INK, font=text.font)
    top += text.line_height
    for number, line in enumerate(text.lines):
        where = (_PAD, top + number * text.line_height)
        draw.text(where, line, fill=_SOFT_INK, font=text.font)
    return sheet


def _inner_edge(area: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Find the pixels of an area that are at most ``width`` px from its outside."""
    return np.asarray(area & (distance_to(~area) <= width))


# --- pictures ------------------------------------------------------------------------------------


def _fit(picture: Image.Image | None, cell: int) -> Image.Image | None:
    """Bring a picture to RGB and to its size on the sheet."""
    if picture is None:
        return None
    image = _on_board(picture)
    longest = max(image.size)
    if longest > cell:
        size = (max(1, round(image.width * cell / longest)), round(image.height * cell / longest))
        return image.resize((size[0], max(1, size[1])), Image.Resampling.LANCZOS)
    factor = cell // longest
    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def _on_board(picture: Image.Image) -> Image.Image:
    """Lay a transparent picture over a chequerboard; other modes just become RGB."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    tile = max(4, max(rgba.size) // 32)
    across, down = np.arange(rgba.width) // tile, np.arange(rgba.height) // tile
    board = np.where((across[None, :] + down[:, None]) % 2 == 0, *_CHECKER).astype(np.uint8)
    base = Image.fromarray(board).convert("RGBA")
    return Image.alpha_composite(base, rgba).convert("RGB")


# --- layout --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Text:
    """Wrapped lines of one size; the lines from ``soft_from`` on are printed lighter."""

    lines: tuple[str, ...]
    font: _Font
    line_height: int
    soft_from: int

    @property
    def height(self) -> int:
        return len(self.lines) * self.line_height

    @property
    def width(self) -> int:
        return max((_width(self.font, line) for line in self.lines), default=0)


@dataclass(frozen=True)
class _Layout:
    """Everything with its place, ready to be drawn."""

    size: tuple[int, int]
    pictures: list[tuple[Image.Image, tuple[int, int]]]
    empty: list[tuple[int, int, int, int]]
    texts: list[tuple[_Text, tuple[int, int]]]


def _lay_out(
    rows: Sequence[Sequence[Cell]],
    count: int,
    title: str | None,
    columns: Sequence[str] | None,
    row_labels: Sequence[str] | None,
) -> _Layout:
    """Decide where everything goes."""
    widths = [
        max([p.width for row in rows if i < len(row) and (p := row[i][0]) is not None], default=0)
        for i in range(count)
    ]
    # A column without any picture is as wide as the others.
    widths = [max(width or max(widths), _MIN_COLUMN) for width in widths]
    labels = [_wrap(text, _ROW_LABEL, _HEADER_SIZE) for text in row_labels or ()]
    left = _MARGIN + (max(label.width for label in labels) + _GAP if labels else 0)
    lefts = [left + sum(widths[:i]) + i * _GAP for i in range(count)]
    total = lefts[-1] + widths[-1] + _MARGIN
    layout = _Layout((0, 0), [], [], [])
    top = _MARGIN
    if title:
        # A sheet of one narrow column is widened rather than breaking its title at every word.
        total = max(total, min(_width(_font(_TITLE_SIZE), title), 480) + 2 * _MARGIN)
        heading = _wrap(title, total - 2 * _MARGIN, _TITLE_SIZE)
        layout.texts.append((heading, (_MARGIN, top)))
        top += heading.height + _GAP * 3 // 4
    if columns:
        heads = [_wrap(text, widths[i], _HEADER_SIZE) for i, text in enumerate(columns)]
        tallest = max(head.height for head in heads)
        for head, x in zip(heads, lefts, strict=False):
            layout.texts.append((head, (x, top + tallest - head.height)))
        top += tallest + _PAD
    for number, row in enumerate(rows):
        tall = max([p.height for p, _ in row if p is not None], default=_MIN_CELL // 2)
        bottom = top + tall
        if number < len(labels):
            layout.texts.append((labels[number], (_MARGIN, top)))
            bottom = max(bottom, top + labels[number].height)
        for (picture, caption), x, width in zip(row, lefts, widths, strict=False):
            if picture is None:
                layout.empty.append((x, top, x + width, top + tall))
            else:
                layout.pictures.append((picture, (x, top)))
            if caption:
                text = _wrap(caption, width, _TEXT_SIZE)
                under = top + (tall if picture is None else picture.height) + _PAD
                layout.texts.append((text, (x, under)))
                bottom = max(bottom, under + text.height)
        top = bottom + _GAP
    size = (total, top - _GAP + _MARGIN)
    return _Layout(size, layout.pictures, layout.empty, layout.texts)


def _draw(layout: _Layout) -> Image.Image:
    """Draw a layout."""
    sheet = Image.new("RGB", layout.size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for left, top, right, bottom in layout.empty:
        draw.rectangle((left - 1, top - 1, right, bottom), fill=_EMPTY, outline=_FRAME)
    for picture, (x, y) in layout.pictures:
        draw.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=_FRAME)
        sheet.paste(picture, (x, y))
    for text, (x, y) in layout.texts:
        for number, line in enumerate(text.lines):
            ink = _INK if number < text.soft_from else _SOFT_INK
            draw.text((x, y + number * text.line_height), line, fill=ink, font=text.font)
    return sheet


# --- text ----------------------------------------------------------------------------------------


def _font(size: int) -> _Font:
    return ImageFont.load_default(size)


def _width(font: _Font, text: str) -> int:
    return int(np.ceil(font.getlength(text)))


def _wrap(text: str, width: int, size: int) -> _Text:
    """Break a text into lines of at most ``width`` px; the lines after its first break are soft."""
    font = _font(size)
    paragraphs = [_break(paragraph, width, font) for paragraph in text.splitlines() or [""]]
    lines = tuple(line for paragraph in paragraphs for line in paragraph)
    return _Text(lines, font, round(size * 1.3), len(paragraphs[0]))


def _break(paragraph: str, width: int, font: _Font) -> list[str]:
    """Break one paragraph at spaces, and inside words only where a word is wider than the line."""
    lines = [""]
    for word in paragraph.split():
        candidate = f"{lines[-1]} {word}" if lines[-1] else word
        if _width(font, candidate) <= width:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and _width(font, lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines

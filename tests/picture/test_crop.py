"""Cut-outs: where they lie, and that edits through them are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from controls.canvas import cut
from engine.errors import InputError, UnknownNameError
from engine.picture.crop import COARSEST, MAX_GATHERED, REFINED, STRETCH, Cutter, Region
from engine.picture.geometry import Box, Size, crop
from engine.picture.read import load_image
from tests.kit import tiny

CUTTER = Cutter(native=64, align=16, context=1.5)
SIZE = 256
SMALL = 160


def mask_of(*boxes, size=(SIZE, SIZE)):
    """A map of ``size`` (width, height) that is 1 in ``boxes`` (left, top, right, bottom)."""
    strength_map = np.zeros((size[1], size[0]), np.float32)
    for left, top, right, bottom in boxes:
        strength_map[top:bottom, left:right] = 1
    return strength_map


def small(*boxes):
    return mask_of(*boxes, size=(SMALL, SMALL))


def covered(regions, strength_map):
    """How many regions give back each pixel."""
    count = np.zeros(strength_map.shape, int)
    for region in regions:
        box = region.box
        own = 1 if region.own is None else region.own
        count[box.top : box.bottom, box.left : box.right] += own
    return count


# --- where the regions lie -----------------------------------------------------------------------


def test_small_mask_gets_a_native_box_around_its_middle():
    (region,) = CUTTER.regions(mask_of((100, 120, 120, 130)))
    assert region == Region(Box(78, 93, 142, 157), Size(64, 64))


@pytest.mark.parametrize("corner", [(0, 0), (236, 0), (0, 246), (236, 246)])
def test_box_is_moved_into_the_picture_not_cut(corner):
    left, top = corner
    (region,) = CUTTER.regions(mask_of((left, top, left + 20, top + 10)))
    assert region.size == (64, 64)
    assert region.box.left in {0, SIZE - 64}
    assert region.box.top in {0, SIZE - 64}


def test_context_and_proportions():
    (region,) = CUTTER.regions(mask_of((80, 100, 140, 110)))  # 60 x 10, context 1.5: 90 x 64
    assert region.size == (96, 64)
    assert not region.scaled
    (wide,) = replace(CUTTER, context=2).regions(mask_of((60, 100, 160, 104)), "mask")
    assert 200 <= wide.box.width < 200 + 24  # a multiple of 16 after scaling
    assert 100 <= wide.box.height < 100 + 24  # half as wide as long


def test_large_cut_outs_are_scaled_to_the_size_that_the_model_can_draw():
    (region,) = CUTTER.regions(mask_of((50, 50, 170, 170)))  # 180 px with context
    assert region.scaled
    assert np.sqrt(region.area) == pytest.approx(64 * STRETCH, abs=8)
    assert region.box.width == region.box.height >= 180


def test_zoom_enlarges_small_ones():
    (region,) = replace(CUTTER, zoom=2).regions(mask_of((100, 100, 110, 110)))
    assert (region.box.width, region.size) == (32, (64, 64))


def test_auto_cuts_out_where_it_saves_half():
    drawable = mask_of((0, 0, 90, 90), size=(96, 96))
    assert CUTTER.regions(drawable) == [Region.whole(Size(96, 96))]
    small = mask_of((10, 10, 20, 20), size=(80, 80))
    assert CUTTER.regions(small) == [Region.whole(Size(80, 80))]
    (forced,) = CUTTER.regions(small, "mask")
    assert forced.size == (64, 64)
    assert CUTTER.regions(mask_of((9, 9, 19, 19)), "full") == [Region.whole(Size(SIZE, SIZE))]


@pytest.mark.parametrize("side", [100, 256, 1000])
def test_what_is_larger_than_the_model_can_draw_is_never_drawn_at_its_own_size(side):
    """One scene, not a wallpaper of them: laid out at the model's size, gone over at a larger."""
    (region,) = CUTTER.regions(mask_of((0, 0, side, side // 2), size=(side, side)))
    laid_out = np.multiply(region.size, region.coarse)
    sides = 64 if region.coarse < 1 else 64 * STRETCH
    assert np.sqrt(laid_out.prod()) == pytest.approx(sides, abs=8)
    assert np.prod(region.size) <= REFINED * 64**2 * 1.1
    assert (region.coarse < 1) == (side > 64 * STRETCH / COARSEST)


@pytest.mark.parametrize("rule", ["auto", "full", "mask"])
def test_nothing_to_repaint_is_the_full_frame(rule):
    assert CUTTER.regions(mask_of(), rule) == [Region.whole(Size(SIZE, SIZE))]


def test_picture_smaller_than_a_cut_out():
    (region,) = CUTTER.regions(mask_of((3, 3, 9, 9), size=(41, 23)), "mask")
    assert region == Region.whole(Size(41, 23))


def test_full_mask_is_the_whole_picture_at_a_size_that_the_model_can_draw():
    (region,) = CUTTER.regions(mask_of((0, 0, SIZE, SIZE)), "mask")
    assert region == Region(Box(0, 0, SIZE, SIZE), Size(SIZE, SIZE), coarse=64 / SIZE)
    (plain,) = replace(CUTTER, refine=False).regions(mask_of((0, 0, SIZE, SIZE)), "mask")
    assert plain == Region(Box(0, 0, SIZE, SIZE), Size(96, 96))


def test_islands_apart_and_together():
    far = CUTTER.regions(mask_of((10, 10, 20, 20), (200, 200, 210, 220)))
    assert [region.size for region in far] == [(64, 64)] * 2
    near = CUTTER.regions(mask_of((10, 10, 20, 20), (40, 10, 50, 20)))
    assert [region.size for region in near] == [(64, 64)]


def test_context_mask_is_held_by_one_region():
    context = mask_of((100, 10, 110, 20)) > 0
    islands = mask_of((10, 10, 20, 20), (40, 10, 50, 20))
    (region,) = CUTTER.regions(islands, "mask", context)
    assert region.box.left <= 10
    assert region.box.right >= 110
    assert region.own is None


@pytest.mark.parametrize("share", [1e-4, 1e-3, 1e-2])
def test_any_number_of_specks_is_a_bounded_number_of_regions(share):
    specks = (np.random.default_rng(0).random((900, 1400)) < share).astype(np.float32)
    regions = CUTTER.regions(specks)
    assert 1 < len(regions) <= MAX_GATHERED
    assert (covered(regions, specks)[specks > 0] == 1).all()
    laid_out = [region.area * region.coarse**2 for region in regions]
    assert max(laid_out) <= (64 * STRETCH + 16) ** 2
    boxes = sum(region.box.width * region.box.height for region in regions)
    assert boxes < 2 * specks.size  # margins; whole surroundings would be 4 times the picture


side = st.integers(20, 300)


@settings(max_examples=150, deadline=None)
@given(
    width=side,
    height=side,
    places=st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=4),
    context=st.floats(1, 3),
    zoom=st.floats(1, 4),
    native=st.sampled_from([32, 64, 100, 128]),
    align=st.sampled_from([8, 16, 32]),
    rule=st.sampled_from(["auto", "mask"]),
)
def test_every_repainted_pixel_is_given_back_once(
    width, height, places, context, zoom, native, align, rule
):
    strength_map = np.zeros((height, width), np.float32)
    for x, y, w, h in places:
        left, top = int(x * (width - 1)), int(y * (height - 1))
        strength_map[top : top + 1 + int(h * height / 2), left : left + 1 + int(w * width / 2)] = 1
    regions = Cutter(native, align, context, zoom).regions(strength_map, rule)
    assert (covered(regions, strength_map)[strength_map > 0] == 1).all()
    for region in regions:
        assert crop(strength_map, region.box).any()  # inside the picture, and never empty
        for edited, own, whole in zip(
            region.size, (region.box.width, region.box.height), (width, height), strict=True
        ):
            assert edited % align == 0 or edited == own == whole


# --- edits through them --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    return tiny.engine(inpaint=False)


def request(**changes):
    return {
        "image": tiny.picture(SMALL),
        "mask": Image.fromarray((small((60, 70, 80, 80)) * 255).astype(np.uint8)),
        "prompt": "a house",
        "num_inference_steps": 1,
        "seed": 1,
        "progress": False,
        **changes,
    }


def changed(result, original):
    return (np.asarray(result.images[0]) != np.asarray(original)).any(axis=2)


@pytest.mark.processors
def test_cut_out_equals_the_edit_of_the_cut_out_alone(engine):
    got = engine.edit(**request())
    (region,) = got.settings["regions"]
    box = tuple(region[:4])
    assert box == (38, 43, 102, 107)
    arguments = request()
    alone = engine.edit(
        **request(
            image=arguments["image"].crop(box), mask=arguments["mask"].crop(box), region="full"
        )
    )
    whole = np.asarray(arguments["image"]).copy()
    whole[43:107, 38:102] = np.asarray(alone.images[0])
    assert np.array_equal(np.asarray(got.images[0]), whole)


@pytest.mark.parametrize(
    "changes",
    [
        {"zoom": 2.0},
        {"native_size": 32, "context": 4.0},
        {"strategy": "staged", "scales": "0.5,1"},
        {"strategy": "soft-blend", "native_size": 32, "threshold": 0.001},
        {"region": "mask", "context_mask": small((0, 0, 30, 120))},
        {"expand": (0, 0, 20, 0), "region": "mask"},
        {"expand": (0, 0, 20, 0), "mask": None, "region": "mask"},
    ],
    ids=["enlarged", "shrunk", "stages", "soft-blend", "context", "expand", "expand only"],
)
def test_only_repainted_pixels_change(engine, changes):
    arguments = request(**changes)
    got = engine.edit(**arguments)
    original = np.asarray(arguments["image"])
    mask = np.asarray(arguments["mask"] or Image.new("L", (SMALL, SMALL))) > 0
    after = np.asarray(got.images[0])[:, :SMALL]
    differs = (after != original).any(axis=2)
    assert not differs[~mask].any()
    if mask.any():
        assert differs[mask].mean() > 0.9
    assert got.settings["regions"] != [[0, 0, *got.settings["size"], *got.settings["size"]]]


@pytest.mark.processors
def test_two_islands_are_one_batch_and_the_first_is_as_if_it_were_alone(engine):
    one, two = (20, 20, 40, 40), (130, 120, 145, 150)
    both = engine.edit(**request(mask=small(one, two)))
    assert len(both.settings["regions"]) == 2
    assert both.latents.shape == (2, 4, 8, 8)
    first = engine.edit(**request(mask=small(one)))
    assert np.allclose(
        np.asarray(both.images[0])[:90].astype(int),
        np.asarray(first.images[0])[:90],
        atol=1,  # shared model calls differ in their last bits
    )
    where = changed(both, request()["image"])
    assert where[20:40, 20:40].mean() > 0.9
    assert where[120:150, 130:145].mean() > 0.9
    assert not where[small(one, two) == 0].any()
    again = engine.edit(**request(mask=small(one, two)))
    assert np.array_equal(np.asarray(again.images[0]), np.asarray(both.images[0]))


def test_several_pictures_with_a_map_each(engine):
    pictures = [np.asarray(tiny.picture(SMALL, seed)) for seed in (0, 1)]
    maps = [small((20, 20, 40, 40), (140, 140, 150, 150)), small((100, 10, 110, 20))]
    got = engine.edit(**request(image=pictures, mask=maps))
    for picture, strength_map, image in zip(pictures, maps, got.images, strict=True):
        differs = (np.asarray(image) != picture).any(axis=2)
        assert not differs[strength_map == 0].any()
        assert differs[strength_map > 0].mean() > 0.9


def test_opacity_stays_where_nothing_is_repainted(engine):
    picture = tiny.picture(SMALL).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((SMALL, SMALL)))
    got = engine.edit(**request(image=picture)).images[0]
    assert got.mode == "RGBA"
    before, after = (np.asarray(each)[..., 3] for each in (picture, got))
    repainted = np.asarray(request()["mask"]) > 0
    assert np.array_equal(after[~repainted], before[~repainted])
    assert (after[repainted] == 255).all()  # towards the visible picture there is no fade


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"region": "mask", "output_type": "latent"}, "full frame only"),
        ({"region": "mask", "compat": "diffusers"}, "full frame only"),
        ({"region": "mask", "denoising_end": 0.5}, "full frame only"),
        ({"region": "masks"}, "mask"),
        ({"context": 0.5}, "context"),
        ({"zoom": 0.5}, "zoom"),
        ({"native_size": 0}, "native_size"),
        ({"region": "full", "context_mask": small((0, 0, 9, 9))}, "full frame has none"),
        ({"context_mask": np.zeros((9, 8))}, "same aspect"),
    ],
)
def test_refused(engine, changes, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        engine.edit(**request(**changes))


def test_latents_out_are_of_the_full_frame(engine):
    assert engine.edit(**request(output_type="latent")).latents.shape == (1, 4, 20, 20)


def test_controls_are_cut_with_the_same_box():
    import torch

    canvas = torch.arange(12).reshape(1, 1, 3, 4)
    assert cut(canvas, Box(1, 1, 3, 3)).flatten().tolist() == [5, 6, 9, 10]
    assert cut(canvas, None) is canvas


# --- every kind of picture, through a cut-out ----------------------------------------------------

DEEP = np.random.default_rng(3).integers(0, 65536, (SMALL, SMALL), dtype=np.uint16)
PICTURES = {
    "grey": tiny.picture(SMALL).convert("L"),
    "bitmap": tiny.picture(SMALL).convert("1"),
    "palette": tiny.picture(SMALL).convert("P"),
    "CMYK": tiny.picture(SMALL).convert("CMYK"),
    "grey with alpha": tiny.picture(SMALL).convert("LA"),
    "16-bit": Image.fromarray(DEEP),
    "16-bit array": DEEP,
    "float array": DEEP.astype(np.float32) / 65535,
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_kinds_of_pictures(engine, picture):
    mask = small((60, 70, 80, 80))
    got = engine.edit(**request(image=picture, mask=mask, region="mask")).images[0]
    before, after = load_image(picture).rgb, load_image(got).rgb
    assert np.array_equal(after[mask == 0], before[mask == 0])
    assert (after != before)[mask > 0].any(axis=1).mean() > 0.9


def test_animations_are_refused(engine, tmp_path):
    frames = [tiny.picture(SMALL, seed) for seed in (0, 1)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="2 frames"):
        engine.edit(**request(image=tmp_path / "moving.gif", region="mask"))


@pytest.mark.parametrize(
    "box",
    [(0, 0, 1, 1), (159, 159, 160, 160), (0, 60, 160, 70), (0, 0, 30, 160), (1, 1, 159, 159)],
    ids=["corner pixel", "last pixel", "across", "side", "all but a frame"],
)
def test_masks_at_the_border(engine, box):
    mask, picture = small(box), np.asarray(tiny.picture(SMALL))
    got = np.asarray(engine.edit(**request(mask=mask, region="mask", feather=0.0)).images[0])
    assert np.array_equal(got[mask == 0], picture[mask == 0])
    assert (got != picture)[mask > 0].any()


def test_full_masks(engine):
    with pytest.raises(InputError, match="covers the whole picture"):
        engine.edit(**request(mask=np.ones((SMALL, SMALL)), region="mask"))
    everything = np.ones((SMALL, SMALL), np.float32)
    got = engine.edit(**request(mask=None, strength_map=everything, region="mask"))
    assert got.settings["regions"] == [[0, 0, SMALL, SMALL, 96, 96]]
    assert changed(got, tiny.picture(SMALL)).mean() > 0.9


def test_picture_smaller_than_the_cut_out(engine):
    mask = mask_of((5, 5, 20, 20), size=(41, 23))
    picture = tiny.picture(64).crop((0, 0, 41, 23))
    got = engine.edit(**request(image=picture, mask=mask, region="mask"))
    assert got.images[0].size == (41, 23)
    assert not changed(got, picture)[mask == 0].any()

"""Fills: they touch the hole only, and put there what they say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import InputError, ModelError, UnknownNameError
from engine.picture.fill import choose_prefill, find_prefill, list_prefills, prefilled
from engine.picture.fill.gan import _load_gan
from engine.pocket import world
from tests.kit import tiny

NAMES = [name for name in list_prefills() if name != "gan"]
CLASSIC = ["blur", "telea", "ns", "patch"]


def ramp(height=48, width=64):
    """A smooth picture: red rises to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([60 + 2 * x, 40 + 3 * y, np.full_like(x, 90)], axis=2).astype(np.uint8)


def hole(height=48, width=64, box=(20, 16, 36, 30)):
    mask = np.zeros((height, width), bool)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "box", [(20, 16, 36, 30), (0, 0, 20, 48), (63, 47, 64, 48)], ids=["inside", "border", "pixel"]
)
def test_only_the_hole_changes_and_twice_is_the_same(name, box):
    rgb, mask = ramp(), hole(box=box)
    before = rgb.copy()
    filled = prefilled(find_prefill(name), rgb, mask)
    assert filled.dtype == np.uint8
    assert np.array_equal(filled[~mask], before[~mask])
    assert np.array_equal(rgb, before)
    assert np.array_equal(filled, prefilled(find_prefill(name), rgb, mask))


@pytest.mark.parametrize("name", CLASSIC)
def test_hidden_content_does_not_leak_into_the_fill(name):
    mask, rgb = hole(), ramp()
    other = rgb.copy()
    other[mask] = (255, 0, 0)
    fill = find_prefill(name)
    assert np.array_equal(prefilled(fill, rgb, mask), prefilled(fill, other, mask))


@pytest.mark.parametrize(("name", "limit"), [("blur", 12), ("telea", 12), ("ns", 12)])
def test_smooth_pictures_are_continued(name, limit):
    mask, rgb = hole(), ramp()
    filled = prefilled(find_prefill(name), rgb, mask)
    error = np.abs(filled[mask].astype(int) - rgb[mask])
    assert error.mean() < limit  # the ramp spans 32 and 42 levels across the hole


def test_patch_continues_a_pattern_where_diffusion_blurs_it():
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, (np.arange(96) // 4) % 2 == 0] = (200, 180, 40)
    mask = hole(64, 96, (40, 24, 60, 40))
    errors = {
        name: np.abs(prefilled(find_prefill(name), stripes, mask)[mask] - stripes[mask].astype(int))
        for name in ("patch", "blur")
    }
    assert errors["patch"].mean() < 20
    assert errors["patch"].mean() < errors["blur"].mean() / 3


def test_noise_has_the_known_colours_and_neutral_is_grey():
    mask, rgb = hole(), ramp()
    known = {tuple(each) for each in rgb[~mask]}
    assert {tuple(each) for each in prefilled(find_prefill("noise"), rgb, mask)[mask]} <= known
    assert (prefilled(find_prefill("neutral"), rgb, mask)[mask] == 128).all()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_fill_or_nothing_to_fill_from(name):
    rgb = ramp()
    for mask in (np.zeros((48, 64), bool), np.ones((48, 64), bool)):
        assert np.array_equal(prefilled(find_prefill(name), rgb, mask), rgb)


@pytest.mark.parametrize("name", CLASSIC)
def test_tiny_pictures(name):
    rgb, mask = ramp(3, 5), hole(3, 5, (1, 1, 3, 2))
    assert np.array_equal(prefilled(find_prefill(name), rgb, mask)[~mask], rgb[~mask])


# --- GANs ----------------------------------------------------------------------------------------


class Mean(torch.nn.Module):
    """A model with the interface: the picture's mean colour in the hole."""

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        known = 1 - mask
        mean = (image * known).sum([2, 3], keepdim=True) / known.sum([2, 3], keepdim=True)
        return image * known + mean * mask


class Half(torch.nn.Module):
    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return image[:, :, ::2, ::2] + 0 * mask[:, :, ::2, ::2]


def save(module, path):
    image, mask = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    torch.jit.trace(module, (image, mask)).save(str(path))
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_gan_by_path(tmp_path):
    path = save(Mean(), tmp_path / "mean.pt")
    rgb, mask = ramp(46, 61), hole(46, 61)  # no multiples of 8
    answer = _load_gan(path)(rgb, mask)
    assert np.abs(answer[mask] - rgb[~mask].mean(axis=0)).max() < 4  # the padding counts too
    # What is off at the hole's edge is taken off; of a ramp, that leaves the ramp's middle.
    filled = prefilled(find_prefill(f"gan:{path}"), rgb, mask).astype(int)
    off = np.abs(filled - rgb), np.abs(answer.astype(int) - rgb)
    rim = mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) == 0)
    assert off[0][rim].mean() < 3  # a pixel of the ramp is 1.4 and 2 levels
    assert off[0][mask].mean() < off[1][mask].mean() / 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_gan_that_is_none(tmp_path):
    with pytest.raises(ModelError, match="returns the picture"):
        find_prefill(f"gan:{save(Half(), tmp_path / 'half.pt')}")(ramp(), hole())
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot be loaded"):
        find_prefill(f"gan:{broken}")(ramp(), hole())


def test_gan_refused(tmp_path):
    with pytest.raises(InputError, match="no file"):
        find_prefill(f"gan:{tmp_path / 'missing.pt'}")
    text = tmp_path / "model.txt"
    text.write_text("x")
    with pytest.raises(InputError, match="neither TorchScript"):
        find_prefill(f"gan:{text}")
    with pytest.raises(InputError, match="model hub"):
        find_prefill("gan:nobody/nothing/model.pt")


def test_onnx_without_its_runtime(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    with pytest.raises(InputError, match="onnxruntime"):
        find_prefill(f"gan:{model}")


def test_pocket_gan_draws_backgrounds():
    spec = world.sample_scene(1_900_003)
    scene, truth = world.render(spec), world.render(spec.without(0)).image
    mask = world.grow(scene.masks[0], 4) > 0
    errors = {
        name: np.abs(
            prefilled(find_prefill(name), scene.image, mask)[mask] - truth[mask].astype(int)
        )
        for name in ("gan", "neutral", "noise")
    }
    assert errors["gan"].mean() < 0.5 * min(errors["neutral"].mean(), errors["noise"].mean())


def test_pocket_gan_knows_no_left_and_right():
    scene = world.render(world.sample_scene(1_900_003))
    mask = world.grow(scene.masks[0], 4) > 0
    filled = prefilled(find_prefill("gan"), scene.image, mask)
    mirrored = prefilled(
        find_prefill("gan"), np.ascontiguousarray(scene.image[:, ::-1]), mask[:, ::-1].copy()
    )
    assert np.abs(filled.astype(int) - mirrored[:, ::-1]).max() <= 1  # rounded twice


def test_unknown_name():
    with pytest.raises(UnknownNameError, match="telea"):
        find_prefill("teela")


# --- in an edit ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    return tiny.engine(inpaint=False)


def edit(engine, **changes):
    return engine.edit(
        **{
            "image": tiny.picture(),
            "mask": tiny.box_mask(),
            "prompt": "a",
            "num_inference_steps": 2,
            "seed": 1,
            "progress": False,
            **changes,
        }
    )


def test_auto_by_the_kind_of_edit(engine):
    hard, soft = np.eye(4, dtype=np.float32), np.full((4, 4), 0.5, np.float32)
    assert choose_prefill([hard], 1.0) == "blur"
    assert choose_prefill([hard], 0.6) == "original"
    assert choose_prefill([hard, soft], 1.0) == "original"
    assert edit(engine).settings["prefilled"] == "blur"
    assert edit(engine, strength=0.5).settings["prefilled"] == "original"
    soft_prefill = np.full((64, 64), 0.5)
    assert edit(engine, prefill_mask=soft_prefill).settings["prefilled"] == "blur"
    got = edit(engine, mask=None, strength_map=np.kron([[0, 0.5, 0, 1]], np.ones((64, 16))))
    assert got.settings["prefilled"] == "original"
    assert got.settings["prefill"] == "auto"


@pytest.mark.parametrize("strategy", ["differential", "blend", "soft-blend", "staged"])
def test_fill_moves_the_result_and_never_the_known_pixels(engine, strategy):
    known = np.asarray(tiny.box_mask()) == 0
    options = {"threshold": 0.001} if strategy == "soft-blend" else {}
    results = [
        np.asarray(edit(engine, strategy=strategy, strength=0.5, prefill=name, **options).images[0])
        for name in ("original", "neutral")
    ]
    assert (results[0] != results[1]).any()
    for result in results:
        assert np.array_equal(result[known], np.asarray(tiny.picture())[known])


def test_prefill_mask_is_a_mask_of_its_own(engine):
    nothing = edit(engine, strength=0.5, prefill="neutral", prefill_mask=np.zeros((64, 64)))
    plain = edit(engine, strength=0.5, prefill="original")
    assert np.array_equal(np.asarray(nothing.images[0]), np.asarray(plain.images[0]))


def test_expand_is_prefilled(engine):
    results = [
        edit(engine, mask=None, expand=(0, 0, 32, 0), prefill=name)
        for name in ("original", "noise")
    ]
    first, second = (np.asarray(each.images[0]) for each in results)
    assert np.array_equal(first[:, :64], np.asarray(tiny.picture()))
    assert (first != second).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefill": "blurr"}, "blur"),
        ({"prefill": 3}, "name"),
        ({"prefill": "blur", "compat": "diffusers"}, "compat"),
        ({"paste": "poisson", "compat": "diffusers"}, "compat"),
        ({"paste": "glue"}, "paste"),
        ({"prefill": "blur", "image": torch.zeros(1, 4, 8, 8)}, "latents"),
        ({"paste": "poisson", "image": torch.zeros(1, 4, 8, 8)}, "latents"),
        ({"paste_mask": np.zeros((64, 32))}, "same aspect"),
    ],
)
def test_refused(engine, changes, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        edit(engine, **changes)


@pytest.mark.parametrize("paste", ["alpha", "adaptive", "multiband", "poisson"])
def test_pastes_keep_what_is_not_repainted(engine, paste):
    known = np.asarray(tiny.box_mask()) == 0
    got = np.asarray(edit(engine, paste=paste).images[0])
    assert np.array_equal(got[known], np.asarray(tiny.picture())[known])
    assert (got[~known] != np.asarray(tiny.picture())[~known]).any()


def test_paste_mask_cannot_paste_what_is_not_repainted(engine):
    everything = edit(engine, paste_mask=np.ones((64, 64), np.float32))
    hard = edit(engine, feather=0.0)
    assert np.array_equal(np.asarray(everything.images[0]), np.asarray(hard.images[0]))
    nothing = edit(engine, paste_mask=Image.new("L", (64, 64)))
    assert np.array_equal(np.asarray(nothing.images[0]), np.asarray(tiny.picture()))

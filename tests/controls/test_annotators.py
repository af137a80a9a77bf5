"""Annotators: one signature, the size to the pixel, offline where they can be, honest where not."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants

from controls import annotate, annotators, get_annotator, list_annotators
from engine import InputError, ModelError, UnknownNameError
from engine.models.formats.sources import asked_once

OFFLINE = list_annotators(offline=True)
DETECTORS = [name for name in list_annotators() if name not in OFFLINE]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    from skimage.data import chelsea

    return np.asarray(chelsea())


@pytest.mark.parametrize("name", OFFLINE)
class TestOffline:
    def test_same_size_same_bits_and_an_untouched_input(self, name, photo):
        before = photo.copy()
        made = annotate(photo, name)
        assert made.shape == photo.shape
        assert made.dtype == np.uint8
        assert np.array_equal(photo, before)
        assert np.array_equal(made, annotate(photo, name))
        assert made.std() > 5

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (37, 5), (64, 64)])
    def test_any_size(self, name, size):
        flat = np.full((*size, 3), 90, np.uint8)
        assert annotate(flat, name).shape == (*size, 3)


def class_of(name: str) -> str:
    detector: Any = get_annotator(name).run
    return str(detector.class_name)


def test_list():
    assert OFFLINE == ["canny", "soft-edge", "tile", "blur", "grey", "shuffle"]
    assert {"hed", "pidi", "lineart", "midas", "normal", "openpose", "mlsd"} <= set(DETECTORS)
    for name in list_annotators():
        assert get_annotator(name).description


def step() -> np.ndarray:
    """Dark left of column 20, light from it on."""
    image = np.full((48, 64, 3), 40, np.uint8)
    image[:, 20:] = 200
    return image


def test_canny_is_one_white_pixel_wide_on_the_edge():
    made = annotate(step(), "canny")
    assert set(np.unique(made)) == {0, 255}
    rows = made[24, :, 0] > 0
    assert rows.sum() == 1
    assert 18 <= rows.argmax() <= 20


def test_soft_edges_peak_on_the_edge_and_fade():
    made = annotate(step(), "soft-edge")[24, :, 0].astype(int)
    assert made[19] == made[20] == made.max() == 255
    assert made[24] < made[21] < 255
    assert made[40] == 0


def test_soft_edges_see_colour_of_equal_luminance():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :16], image[:, 16:] = (200, 0, 0), (0, 102, 0)
    assert annotate(image, "soft-edge")[16, 16, 0] == 255


def test_grey_has_one_value_in_three_channels(photo):
    made = annotate(photo, "grey")
    assert (made == made[..., :1]).all()
    white = np.full((2, 2, 3), 255, np.uint8)
    assert (annotate(white, "grey") == 255).all()


@pytest.mark.parametrize("name", ["tile", "blur"])
def test_smoothing_keeps_colours_and_drops_details(name, photo):
    made = annotate(photo, name).astype(float)
    assert np.abs(made.mean(axis=(0, 1)) - photo.mean(axis=(0, 1))).max() < 1
    assert (
        np.abs(np.diff(made, axis=1)).mean() < np.abs(np.diff(photo.astype(float), axis=1)).mean()
    )


def test_shuffle_keeps_colours_but_no_place(photo):
    made = annotate(photo, "shuffle").astype(float)
    assert np.abs(made.mean(axis=(0, 1)) - photo.mean(axis=(0, 1))).max() < 40
    assert np.abs(made - photo).mean() > 20


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_are_brought_back_to_the_pictures_size(name, photo, monkeypatch):
    """controlnet-aux rounds both sides to multiples of 64 around 512 px."""
    asked = {}

    class Detector:
        @classmethod
        def from_pretrained(cls, repository):
            asked["repository"] = repository
            return cls()

        def __call__(self, image, **options):
            asked.update(options)
            return np.zeros((512, 768, 3), np.uint8)

    class_name = class_of(name)
    monkeypatch.setitem(sys.modules, "controlnet_aux", SimpleNamespace(**{class_name: Detector}))
    annotators._load_detector.cache_clear()
    assert annotate(photo, name).shape == photo.shape
    assert asked["repository"] == "lllyasviel/Annotators"
    assert asked["output_type"] == "np"
    annotators._load_detector.cache_clear()


def test_weights_that_cannot_be_had(photo):
    """Imports controlnet-aux for good, so it also tells that it does under these versions."""
    with pytest.raises(ModelError) as raised:
        annotate(photo, "hed")
    message = str(raised.value)
    assert message.startswith("annotator 'hed' needs weights (lllyasviel/Annotators)")
    assert message.endswith("these need none: canny, soft-edge, tile, blur, grey, shuffle.")
    assert "\n" not in message


def test_every_detector_is_in_controlnet_aux():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import controlnet_aux

    for name in DETECTORS:
        assert hasattr(controlnet_aux, class_of(name)), name


def test_bad_input(photo):
    with pytest.raises(UnknownNameError, match=r"unknown annotator 'cany'. Did you mean 'canny'"):
        annotate(photo, "cany")
    with pytest.raises(InputError, match=r"uint8 \(H, W, 3\) is needed, not float64"):
        annotate(photo / 255, "canny")
    with pytest.raises(InputError, match="is needed"):
        annotate(photo[..., 0], "canny")


def test_ones_own_annotator(photo):
    assert np.array_equal(annotate(photo, lambda image: 255 - image), 255 - photo)
    with pytest.raises(InputError, match="uint8 of the same shape is needed"):
        annotate(photo, lambda image: image[:10])


def test_importing_controls_stays_light():
    """Neither torch nor controlnet-aux: names and help texts come at once."""
    code = (
        "import sys, controls; print({'torch', 'diffusers', 'controlnet_aux'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    asked = []

    def away(url, **_):
        asked.append(url)
        raise ConnectionError("no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", away)
    offline = []
    with asked_once("some/model", "config.json"):
        offline.append(constants.HF_HUB_OFFLINE)
    offline.append(constants.HF_HUB_OFFLINE)
    with asked_once("."):  # a folder is nobody's to ask for
        offline.append(constants.HF_HUB_OFFLINE)
    assert offline == [True, False, False]
    assert len(asked) == 1

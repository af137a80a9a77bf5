"""Reads attributes out of pictures of the pocket world: time, ground, weather, and which things in
which colours.

It was trained on the renderer's ground truth (held-in seeds, softened in many ways so that it
forgives what a VAE and
a diffusion model do to edges), and it scores generated pictures::

    prompt_score(
        images, "a red house on a green meadow at sunset"
    )  # -> one float in [0, 1] per picture

The score is the fraction of what the prompt asks for that is found in the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from engine.pocket.world import (
    COLOURS,
    GROUNDS,
    KINDS,
    TIMES,
    WEATHERS,
    Attributes,
    attributes_from_caption,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "AttributeClassifier",
    "asked_and_found",
    "classifier_path",
    "load_classifier",
    "predict",
    "prompt_likelihood",
    "prompt_score",
]

Images: TypeAlias = (
    "npt.NDArray[np.uint8] | torch.Tensor | Image | Sequence[npt.NDArray[np.uint8] | Image]"
)

INPUT_SIZE = 128
"""Side in pixels that pictures are brought to."""
_COLOUR_NAMES = tuple(COLOURS)


class AttributeClassifier(nn.Module):
    """A small convolutional network.

    Input: b 3 128 128 in [-1, 1]. Output: logits by name: ``time`` b 4, ``ground`` b 5, ``weather``
    b 4, and
    ``objects`` b 5 7 (kind, colour), each its own yes or no. Objects are detected at every place of
    an 8 x 8 map and
    the strongest place counts, so that kind and colour must be seen together.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width
        self.body = nn.Sequential(
            *_block(3, w, 2),
            *_block(w, 2 * w, 2),
            *_block(2 * w, 2 * w, 1),
            *_block(2 * w, 3 * w, 2),
            *_block(3 * w, 3 * w, 1),
            *_block(3 * w, 4 * w, 2),
            *_block(4 * w, 4 * w, 1),
            *_block(4 * w, 4 * w, 1),
        )
        self.objects = nn.Conv2d(4 * w, len(KINDS) * len(COLOURS), 1)
        self.scene = nn.Sequential(nn.Linear(8 * w, 4 * w), nn.ReLU(inplace=True))
        self.time = nn.Linear(4 * w, len(TIMES))
        self.ground = nn.Linear(4 * w, len(GROUNDS))
        self.weather = nn.Linear(4 * w, len(WEATHERS))

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """See the class."""
        features = self.body(pixels)
        places = self.objects(features).flatten(2)
        # a soft maximum over places: sharp enough to localise, smooth enough to train
        strongest = torch.logsumexp(places.float() * 2, dim=2) / 2 - math.log(places.shape[2]) / 2
        upper, lower = features.float().chunk(2, dim=2)
        scene = self.scene(torch.cat([upper.mean((2, 3)), lower.mean((2, 3))], 1))
        return {
            "time": self.time(scene),
            "ground": self.ground(scene),
            "weather": self.weather(scene),
            "objects": strongest.view(-1, len(KINDS), len(COLOURS)),
        }


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def classifier_path() -> Path:
    """The file of the shipped weights."""
    return Path(__file__).resolve().parent / "classifier.safetensors"


@lru_cache(maxsize=1)
def load_classifier() -> AttributeClassifier:
    """The shipped classifier, in float32 on the CPU, ready to predict (loaded once)."""
    path = classifier_path()
    if not path.is_file():
        raise FileNotFoundError(f"the pocket classifier is not in this installation: {path}")
    model = AttributeClassifier()
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return model.eval().requires_grad_(False)


@torch.no_grad()
def predict(images: Images, model: AttributeClassifier | None = None) -> list[Attributes]:
    """What is in each picture.

    ``images``: one or several of PIL pictures or uint8 arrays (H W 3 or b H W 3), or a float tensor
    b 3 H W in [0, 1].
    Any size; pictures that are not square are stretched, as the whole picture counts.
    """
    return [_read(entry) for entry in _logits(images, model or load_classifier())]


@torch.no_grad()
def prompt_score(
    images: Images, prompt: str, model: AttributeClassifier | None = None
) -> list[float]:
    """For each picture the fraction, 0 to 1, of what ``prompt`` asks for that the classifier finds
    in it.

    Time, ground and weather count one point each where the prompt names them, each object one point
    for its kind and
    one for its colour where it is named. A prompt that names nothing of this world scores ``nan``.
    """
    scores = []
    for found in predict(images, model):
        points = asked_and_found(attributes_from_caption(prompt), found)
        scores.append(sum(hit for _, hit in points) / len(points) if points else math.nan)
    return scores


@torch.no_grad()
def prompt_likelihood(image: npt.NDArray[np.uint8], prompt: str) -> float:
    """How sure the classifier is, 0 to 1, of what ``prompt`` asks for: the mean probability of the
    points that :func:`prompt_score` counts as found or not. ``nan`` for a prompt that names nothing
    of this world.

    ``image``: H W 3.
    """
    asked = attributes_from_caption(prompt)
    (logits,) = _logits(image, load_classifier())
    points = []
    for name, values in (("time", TIMES), ("ground", GROUNDS), ("weather", WEATHERS)):
        if (wish := getattr(asked, name)) is not None:
            likely = np.exp(logits[name] - logits[name].max())
            points.append(float(likely[values.index(wish)] / likely.sum()))
    objects = 1 / (1 + np.exp(-logits["objects"]))
    for kind, colour in asked.objects:
        row = objects[KINDS.index(kind)]
        points.append(float(row.max()))
        if colour is not None:
            points.append(float(row[_COLOUR_NAMES.index(colour)]))
    return sum(points) / len(points) if points else math.nan


def asked_and_found(asked: Attributes, found: Attributes) -> list[tuple[str, bool]]:
    """One entry for each thing asked: its category (time, ground, weather, object, colour) and
    whether it was found.
    """
    points: list[tuple[str, bool]] = []
    for name in ("time", "ground", "weather"):
        wish = getattr(asked, name)
        if wish is not None:
            points.append((name, wish == getattr(found, name)))
    kinds = {kind for kind, _ in found.objects}
    for kind, colour in asked.objects:
        points.append(("object", kind in kinds))
        if colour is not None:
            points.append(("colour", (kind, colour) in found.objects))
    return points


def _read(logits: dict[str, npt.NDArray[np.float32]]) -> Attributes:
    objects = []
    for i, kind in enumerate(KINDS):
        for j, colour in enumerate(_COLOUR_NAMES):
            if logits["objects"][i, j] > 0:
                objects.append((kind, cast("str | None", colour)))
    return Attributes(
        TIMES[int(logits["time"].argmax())],
        GROUNDS[int(logits["ground"].argmax())],
        WEATHERS[int(logits["weather"].argmax())],
        tuple(sorted(objects, key=str)),
    )


def _logits(images: Images, model: AttributeClassifier) -> list[dict[str, npt.NDArray[np.float32]]]:
    pixels = _to_pixels(images)
    parts = [model(part) for part in pixels.split(64)]
    joined = {key: torch.cat([part[key] for part in parts]).float().numpy() for key in parts[0]}
    return [{key: value[i] for key, value in joined.items()} for i in range(len(pixels))]


def _to_pixels(images: Any) -> torch.Tensor:
    """Anything that :func:`predict` takes as b 3 128 128 in [-1, 1]."""
    if isinstance(images, torch.Tensor):
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected a tensor b 3 H W, got {tuple(images.shape)}")
        return _resized(images.detach().float().cpu()) * 2 - 1
    if isinstance(images, np.ndarray):
        images = [images] if images.ndim == 3 else list(images)
    elif not isinstance(images, Sequence):
        images = [images]
    if not images:
        raise ValueError("no pictures given")
    tensors = []
    for image in images:
        array = np.asarray(image if isinstance(image, np.ndarray) else image.convert("RGB"))
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
            raise ValueError(f"expected uint8 pictures H W 3, got {array.dtype} {array.shape}")
        tensor = torch.from_numpy(np.array(array)).permute(2, 0, 1)[None].float() / 255
        tensors.append(_resized(tensor))
    return torch.cat(tensors) * 2 - 1


def _resized(pixels: torch.Tensor) -> torch.Tensor:
    if pixels.shape[2:] == (INPUT_SIZE, INPUT_SIZE):
        return pixels
    return F.interpolate(
        pixels, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True, align_corners=False
    )

"""What strategies are measured on: tasks of the pocket world with their truth, or a folder."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.errors import InputError, UnknownNameError
from engine.picture.read import load_image
from engine.pocket import world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

MAPPING: Final = "mapping_file.json"
_SUFFIX: Final = "_mask"  # BrushBench's fields: inpainting_mask, outpainting_mask


PURPOSES: Final = {
    "removal": "remove",
    "insertion": "add",
    "recolour": "recolour",
    "outpaint": "extend",
    "strength": "restyle",
}
"""What an edit of each task is for, as ``task=`` takes it; of a folder's tasks it is not known."""


@dataclass(frozen=True)
class Case:
    """One edit to be made by everybody, and what is known of its answer."""

    task: str
    scene: str
    """Which one of the suite: a seed, or a key of the folder's mapping."""
    image: NDArray[np.uint8]
    """H W 3."""
    strength_map: NDArray[np.float32]
    """H W in [0, 1], 1 = repaint."""
    prompt: str
    truth: NDArray[np.uint8] | None = None
    """The right answer, of the result's size."""
    subject: NDArray[np.bool_] | None = None
    """Where the thing that is asked for stands in the truth."""
    expand: tuple[int, int, int, int] | None = None
    """Pixels (left, top, right, bottom) by which the canvas grows."""

    @cached_property
    def canvas(self) -> NDArray[np.uint8]:
        """The picture on the result's canvas: a new border mirrors the picture."""
        return self._grown(self.image, mode="symmetric")

    @cached_property
    def canvas_map(self) -> NDArray[np.float32]:
        """The strength map on the result's canvas: a new border is repainted fully."""
        return self._grown(self.strength_map, mode="constant", constant_values=1.0)

    def _grown(self, array: NDArray[Any], **how: Any) -> NDArray[Any]:
        left, top, right, bottom = self.expand or (0, 0, 0, 0)
        sides = ((top, bottom), (left, right), (0, 0))
        return np.pad(array, sides[: array.ndim], **how)


@dataclass(frozen=True)
class Suite:
    """Tasks by name; each gives its cases in an order that never changes."""

    name: str
    tasks: Mapping[str, Callable[[], Iterator[Case]]]

    def cases(self, task: str, count: int) -> list[Case]:
        """The first ``count`` cases of ``task``, or as many as there are.

        Raises:
            UnknownNameError: there is no such task.
            InputError: a file of the suite is missing or damaged.
        """
        if task not in self.tasks:
            raise UnknownNameError(f"task of suite {self.name!r}:", task, self.tasks)
        return [case for _, case in zip(range(count), self.tasks[task](), strict=False)]


def open_suite(name: str, *, first_seed: int, size: int) -> Suite:
    """The pocket world's tasks, or those of a folder in BrushBench's layout.

    Raises:
        InputError: there is no such folder, or it cannot be read.
    """
    return pocket_suite(first_seed, size) if name == "pocket" else folder_suite(Path(name))


# --- the pocket world ----------------------------------------------------------------------------


def pocket_suite(first_seed: int, size: int = 128) -> Suite:
    """Edits of rendered scenes, the truth rendered too; from scene ``first_seed`` upwards.

    Scenes that a task does not fit (nothing to remove, no room to insert) are passed over.
    ``size`` is the side in px; masks scale with it.
    """

    def cases(make: Callable[[int, int], Case | None]) -> Iterator[Case]:
        seed = first_seed
        while True:
            case = make(seed, size)
            if case is not None:
                yield case
            seed += 1

    return Suite("pocket", {name: partial(cases, make) for name, make in _TASKS.items()})


def removal(seed: int, size: int) -> Case | None:
    """A thing is to go: its footprint, grown by 1/32 of the side, and the place's own caption."""
    spec = world.sample_scene(seed)
    if not spec.objects:
        return None
    scene, truth = world.render(spec, size), world.render(spec.without(0), size).image
    mask = _grown_footprint(scene, 0)
    return Case("removal", str(seed), scene.image, mask, _caption_of(spec), truth)


def insertion(seed: int, size: int) -> Case | None:
    """A thing is to come, in a colour of its own: a box where there is room, and a caption."""
    spec = world.sample_scene(seed)
    thing = world.fitting_object(spec, np.random.default_rng([seed, 1]))
    if thing is None:
        return None
    after = spec.with_object(thing)
    truth = world.render(after, size)
    subject = truth.masks[len(spec.objects)]
    mask = world.box_around(subject, margin=1 / 32).astype(np.float32)
    before = world.render(spec, size).image
    return Case(
        "insertion", str(seed), before, mask, _caption_of(spec, thing), truth.image, subject
    )


def recolour(seed: int, size: int) -> Case | None:
    """A thing is to take another colour: its grown footprint, and the new caption."""
    spec = world.sample_scene(seed)
    if not spec.objects:
        return None
    colours = [c for c in world.KIND_COLOURS[spec.objects[0].kind] if c != spec.objects[0].colour]
    after = spec.recoloured(0, str(np.random.default_rng([seed, 2]).choice(colours)))
    before, truth = world.render(spec, size), world.render(after, size)
    mask = _grown_footprint(before, 0)
    subject = truth.masks[0]
    prompt = _caption_of(spec, after.objects[0])
    return Case("recolour", str(seed), before.image, mask, prompt, truth.image, subject)


def outpaint(seed: int, size: int) -> Case:
    """One to four sides of a scene are cut off, 3/16 of the picture each, to be painted again."""
    spec = world.sample_scene(seed)
    rng = np.random.default_rng([seed, 3])
    cut = max(1, round(size * 3 / 16))
    sides = rng.permutation(4)[: int(rng.integers(1, 5))]
    left, top, right, bottom = (cut if side in sides else 0 for side in range(4))
    truth = world.render(spec, size).image
    image = truth[top : size - bottom, left : size - right].copy()
    keep = np.zeros(image.shape[:2], np.float32)
    expand = (left, top, right, bottom)
    return Case("outpaint", str(seed), image, keep, spec.caption, truth, expand=expand)


def strength(seed: int, size: int) -> Case:
    """Another time of day, under a map of nine strengths: there is no one truth, but an order."""
    spec = world.sample_scene(seed)
    times = [time for time in world.TIMES if time != spec.time]
    time = str(np.random.default_rng([seed, 4]).choice(times))
    prompt = dataclasses.replace(spec, time=time).caption
    image = world.render(spec, size).image
    return Case("strength", str(seed), image, patches(seed, size=size)[0], prompt)


_TASKS: Final[Mapping[str, Callable[[int, int], Case | None]]] = {
    "removal": removal,
    "insertion": insertion,
    "recolour": recolour,
    "outpaint": outpaint,
    "strength": strength,
}


def patches(
    scene: int, turn: int = 0, size: int = 128
) -> tuple[NDArray[np.float32], NDArray[np.int_]]:
    """A map of nine patches with strengths 0 to 1, and which (0 to 8) each cell of 8 px is in.

    In nine turns every strength stands at every place once: what is at a place matters more to how
    far it moves than a strength's neighbour does.
    """
    cells = size // 8
    order = (np.random.default_rng(scene).permutation(9) + turn) % 9
    edges = np.linspace(0, cells, 4).astype(int)
    which = np.zeros((cells, cells), np.int_)
    for i in range(3):
        for j in range(3):
            which[edges[i] : edges[i + 1], edges[j] : edges[j + 1]] = order[3 * i + j]
    return np.kron(which / 8, np.ones((8, 8))).astype(np.float32), which


def _caption_of(spec: world.SceneSpec, *things: world.SceneObject) -> str:
    """The place, and what the mask is to hold. Nothing else: a model that is told of a house which
    stands outside the mask paints a second one into it.
    """
    return dataclasses.replace(spec, objects=things).caption


def _grown_footprint(scene: world.Scene, index: int) -> NDArray[np.float32]:
    return world.grow(scene.masks[index], round(len(scene.image) / 32)).astype(np.float32)


# --- a folder ------------------------------------------------------------------------------------


def folder_suite(folder: Path) -> Suite:
    """A folder in BrushBench's layout (Ju et al. 2024, ``evaluate_brushnet.py``).

    ``mapping_file.json`` maps keys to records with ``image`` (a path inside the folder),
    ``caption`` and masks such as ``inpainting_mask``: pairs of start (from 1, row by row) and
    length, of the picture's size. Each field that ends in ``_mask`` is a task of that name. Only
    the picture that was there is known, and it is no truth: what the caption asks for may look
    otherwise.

    Raises:
        InputError: the mapping is missing, empty or damaged.
    """
    mapping = _read_mapping(folder)
    fields = dict.fromkeys(
        field for record in mapping.values() for field in record if field.endswith(_SUFFIX)
    )
    if not fields:
        raise InputError(f"{folder / MAPPING} holds no masks (inpainting_mask, outpainting_mask).")

    def cases(field: str) -> Iterator[Case]:
        for key, record in mapping.items():
            if field in record:
                yield _folder_case(folder, key, record, field)

    return Suite(
        str(folder),
        {field.removesuffix(_SUFFIX): partial(cases, field) for field in fields},
    )


def _read_mapping(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    path = folder / MAPPING
    if not folder.is_dir():
        raise InputError(f"--suite takes 'pocket' or a folder; {str(folder)!r} is none.")
    if not path.is_file():
        raise InputError(f"{folder} is no suite: it has no {MAPPING} (BrushBench's layout).")
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if not isinstance(mapping, dict) or not mapping:
        raise InputError(f"{path} must be an object of records by key, and not empty.")
    for key, record in mapping.items():
        texts = isinstance(record, dict) and (record.get("image"), record.get("caption"))
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{path}: record {key!r} must have an image and a caption, as texts.")
    return mapping


def _folder_case(folder: Path, key: str, record: Mapping[str, Any], field: str) -> Case:
    image = load_image(folder / record["image"]).rgb
    where = f"{folder / MAPPING}, record {key!r}, {field}"
    mask = decode_runs(record[field], image.shape[:2], where)
    return Case(field.removesuffix(_SUFFIX), key, image, mask.astype(np.float32), record["caption"])


def decode_runs(runs: Sequence[Any], shape: tuple[int, ...], where: str) -> NDArray[np.bool_]:
    """The mask (``shape``, H W) that pairs of start and length describe, starts counted from 1.

    Raises:
        InputError: they are no pairs of whole numbers, or reach outside; ``where`` names them.
    """
    try:
        numbers = np.asarray(runs, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0, np.int64)
    if numbers.ndim != 1 or not numbers.size or numbers.size % 2:
        raise InputError(f"{where}: pairs of start and length are needed.")
    starts, ends = numbers[::2] - 1, numbers[::2] - 1 + numbers[1::2]
    area = int(np.prod(shape))
    if starts.min() < 0 or ends.max() > area or (ends < starts).any():
        raise InputError(f"{where}: a run reaches outside the picture of {shape[1]} x {shape[0]}.")
    flat = np.zeros(area, np.bool_)
    for start, end in zip(starts, ends, strict=True):
        flat[start:end] = True
    return flat.reshape(shape)

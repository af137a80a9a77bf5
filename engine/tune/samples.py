"""Pictures that a model paints before and while it is taught."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from engine.picture.read import load_image
from engine.picture.sheet import labelled_grid
from engine.picture.write import save_image
from engine.tune.photos import Photo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.engine import InpaintEngine
    from engine.tune.recipe import Recipe
    from engine.tune.runs import RunFolder

STRATEGIES = {"inpaint": "inpaint9", "base": "differential"}
"""What paints with a kind of network."""
SHOWN = 4
"""Photos on a sheet."""
TOGETHER = 8
"""Pictures that are drawn in shared model calls."""


def draw_prior(
    engine: InpaintEngine,
    kind: str,
    prompts: Sequence[str],
    side: int,
    recipe: Recipe,
    folder: RunFolder,
    say: Callable[[str], object],
) -> list[Photo]:
    """Pictures of the network's own, ``side`` px square, ``recipe.prior_pictures`` of each prompt;
    those that the folder holds are not drawn again.
    """
    wanted = [(p, n) for p in prompts for n in range(recipe.prior_pictures)]
    places = [folder.path / "prior" / f"{number:05d}.png" for number in range(len(wanted))]
    missing = [each for each in range(len(wanted)) if not places[each].is_file()]
    if missing:
        say(f"{len(missing)} pictures of --prior-prompt are drawn ...")
        places[0].parent.mkdir(exist_ok=True)
    grey = Image.new("RGB", (side, side), (128, 128, 128))
    whole = np.ones((side, side), np.float32)
    for start in range(0, len(missing), TOGETHER):
        some = missing[start : start + TOGETHER]
        edits = [
            {
                "image": grey,
                "strength_map": whole,
                "prompt": wanted[each][0],
                "seed": recipe.seed + each,
                "strategy": STRATEGIES[kind],
                "prefill": "original",
                "colour": "none",
            }
            for each in some
        ]
        for each, result in zip(some, engine.edit_many(edits).unwrap(), strict=True):
            save_image(result.images[0], places[each])
    clear = np.zeros((side, side), bool)
    return [
        Photo(str(place), load_image(place).rgb, prompt, clear, own=True)
        for place, (prompt, _) in zip(places, wanted, strict=True)
    ]


def sample_sheet(
    engine: InpaintEngine, kind: str, photos: Sequence[Photo], seed: int, *, raw: bool = False
) -> Image.Image:
    """Photos, holes, and what the model paints there; ``raw``: with its colours as they come."""
    rows: list[list[tuple[Image.Image | None, str]]] = []
    some = photos[:SHOWN]
    masks = [_hole(each) for each in some]
    edits = [
        {
            "image": Image.fromarray(photo.pixels),
            "mask": Image.fromarray(mask.astype(np.uint8) * 255),
            "prompt": photo.caption,
            "seed": seed,
            "strategy": STRATEGIES[kind],
            **({"colour": "none"} if raw else {}),
        }
        for photo, mask in zip(some, masks, strict=True)
    ]
    results: list[Any] = engine.edit_many(edits).unwrap()
    for photo, mask, result in zip(some, masks, results, strict=True):
        holed = np.where(mask[..., None], np.uint8(128), photo.pixels)
        rows.append(
            [
                (Image.fromarray(photo.pixels), photo.caption),
                (Image.fromarray(holed), "the hole"),
                (result.images[0], f"seed {seed}"),
            ]
        )
    return labelled_grid(rows, columns=["picture", "hole", "painted"])


def _hole(photo: Photo) -> NDArray[np.bool_]:
    """What is unknown of a photo; else where its subject is; else the middle of it."""
    if photo.unknown.any():
        return photo.unknown
    if photo.subject is not None:
        return photo.subject
    height, width = photo.unknown.shape
    mask = np.zeros((height, width), bool)
    mask[height // 5 : -height // 5, width // 5 : -width // 5] = True
    return mask

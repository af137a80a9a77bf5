"""One run of several regions: its request, and which prompt acts where in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from controls import check_controls, check_references
from engine.edit.coupling import Coupling, Share
from engine.errors import InputError
from engine.picture.map_files import load_strength_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.edit.placing import Placed
    from engine.models import Backbone
    from engine.request.regions import Region
    from engine.request.request import EditRequest


def coupled(
    group: Sequence[Placed], request: EditRequest, models: Sequence[Backbone]
) -> tuple[EditRequest, Coupling]:
    """The request of a run that several regions share, and which prompt acts where in it.

    A region's strength below the strongest makes its map that much weaker.

    Args:
        group: the regions.
        request: the edit's.
        models: that the group's own prompt and each region's are read by, see
            :func:`engine.edit.chosen.models_of`.

    Raises:
        InputError: ``coupling="attention"`` where one call cannot follow all of them.
    """
    rest = next((each.map for each in group if each.region is None), None)
    own = [(each.region, each.map) for each in group if each.region is not None]
    asked = [request.strength if r.strength is None else r.strength for r, _ in own]
    strongest = max([*asked, *([request.strength] if rest is not None else [])])
    weakened = [m * np.float32(s / strongest) for (_, m), s in zip(own, asked, strict=True)]
    if rest is not None:
        weakened.append(rest * np.float32(request.strength / strongest))
    settings = group[-1].settings(request)  # the edit's own map, if there is one, comes first
    common = replace(
        request,
        strength_map=reduce(np.maximum, weakened),
        strength=strongest,
        controls=_controls(own, request),
        ip_adapter_image=_references(own, request),
        **{name: settings[name] for name in ("strategy", "options", "task") if name in settings},
    )
    shares = tuple(
        Share(
            strength_map,
            request.text if region.prompt is None else region.prompt,
            request.negative_text if region.negative_prompt is None else region.negative_prompt,
            region.seed,
            model,
        )
        for (region, strength_map), model in zip(own, models[1:], strict=True)
    )
    same_loras = all(model is models[0] for model in models)
    able = couples(models[0]) and same_loras
    if request.coupling == "attention" and not able:
        why = (
            "this model's network cannot follow several prompts in one call"
            if same_loras
            else "one call has one set of LoRAs, and regions that touch have others"
        )
        raise InputError(f"coupling='attention': {why}; 'latents' mixes predictions.")
    return common, Coupling(shares, rest, attention=able and request.coupling != "latents")


def couples(backbone: Backbone) -> bool:
    """Whether a model's networks follow several prompts in one call."""
    return all(network.couples for network in backbone.networks.values())


_Own = Sequence[tuple["Region", "NDArray[np.float32]"]]


def _controls(own: _Own, request: EditRequest) -> Any:
    """Each region's controls where it is, and the edit's where no region has its own."""
    named = [(check_controls(r.controls), m) for r, m in own if r.controls is not None]
    if not named:
        return request.controls
    others = check_controls(request.controls)
    taken = reduce(np.maximum, (strength_map for _, strength_map in named))
    return [
        *(_masked(control, (1 - taken).astype(np.float32)) for control in others),
        *(_masked(control, strength_map) for several, strength_map in named for control in several),
    ]


def _masked(control: Any, strength_map: NDArray[np.float32]) -> Any:
    if not hasattr(control, "mask"):
        raise InputError(f"{control!r} has no mask, so it cannot be one region's of several.")
    mask = strength_map
    if control.mask is not None:
        mask = mask * load_strength_map(control.mask, (mask.shape[1], mask.shape[0]))
    return replace(control, mask=mask)


def _references(own: _Own, request: EditRequest) -> Any:
    """What the IP-Adapter reads, each region's where it is."""
    named = [(check_references(r.reference), m) for r, m in own if r.reference is not None]
    if not named:
        return request.ip_adapter_image
    if request.ip_adapter_image is not None:
        raise InputError("give the reference to the edit or to its regions that touch, not both.")
    if any(len(adapters) != 1 for adapters, _ in named):
        raise InputError("a region's reference is for one IP-Adapter.")
    return [
        [
            replace(each, mask=strength_map)
            for (references,), strength_map in named
            for each in references
        ]
    ]

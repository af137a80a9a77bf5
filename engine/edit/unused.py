"""Settings that a caller gave and that have no effect on his edit."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from controls import split_controls
from engine.edit.strategies import named_in
from engine.errors import SoftpaintWarning, setting, told
from engine.picture.judging import name_of
from engine.request.field import fields_of
from engine.solvers.names import fresh_scheduler
from strategies import list_strategies

if TYPE_CHECKING:
    from engine.models import Backbone
    from engine.request.request import EditRequest

OF_CUT_OUTS = ("context", "padding", "zoom")
"""Settings that the full frame has no use for."""


class UnusedSettingWarning(SoftpaintWarning):
    """A setting was given that has no effect beside the others."""


def warn_of_unused(request: EditRequest, given: Collection[str], backbone: Backbone) -> None:
    """Warn of each setting that has no effect on an edit, among those that were ``given`` by name,
    with another value than the default and than none.
    """
    fields = fields_of(type(request))
    for name, why in _unused(request, backbone):
        value = getattr(request, name)
        if name in given and value is not None and value is not fields[name].default:
            plain = isinstance(value, str | int | float | tuple)  # an array is like nothing
            if plain and (value in {"none", 0} or value == fields[name].default):
                continue  # who asks for nothing misses nothing
            warned = UnusedSettingWarning(f"{setting(name)} has no effect: {why}.")
            warnings.warn(warned, stacklevel=3)


def _unused(request: EditRequest, backbone: Backbone) -> Iterator[tuple[str, str]]:
    """What would have no effect, and why."""
    if request.eta is not None and not _takes_eta(request, backbone):
        yield "eta", "this scheduler adds no noise of its own to a step, as ddim and tcd may"
    if request.guess_mode and not _is_steered(request):
        way = told(python="controls", command="--control")
        yield "guess_mode", f"it says how {way} act, and there are none"
    if not request.advised:
        yield "prefer", f"it is what {setting('strategy', 'auto')} spends steps on"
    if request.compat:
        for name in ("feather", "colour", "grain"):
            yield name, "it is about a paste, and diffusers' pipelines make none"
    yield from _unjudged(request, backbone)
    if request.prefill == "original":
        yield "prefill_mask", f"with {setting('prefill', 'original')} nothing is filled"
    if not backbone.family.guidance(request.guidance_scale, 0.0, 0.0, 1.0).active:
        for name in ("guidance_rescale", "guidance_start", "guidance_end"):
            yield name, f"a guidance scale of {request.guidance_scale:g} guides nothing"
    if request.regions is None:
        way = told(python="regions", command="--region-edit")
        yield "coupling", f"it says how {way} share a run, and there are none"
    if request.region == "full":
        for name in OF_CUT_OUTS:
            yield name, f"it is about cut-outs, and {setting('region', 'full')} makes none"


def _unjudged(request: EditRequest, backbone: Backbone) -> Iterator[tuple[str, str]]:
    if not request.chooses:
        for name in ("judge", "enough"):
            yield name, f"it judges {setting('candidates')}, and there are none"
    elif not name_of(request.judge, backbone.judge):
        yield "enough", "nobody judges what the pictures show"


def _takes_eta(request: EditRequest, backbone: Backbone) -> bool:
    """Whether a step of the run, or of a stage on another model, may take it."""
    if backbone.others:
        return True
    scheduler = fresh_scheduler(request.scheduler, backbone.pipe.scheduler)
    return "eta" in inspect.signature(scheduler.step).parameters


def _is_steered(request: EditRequest) -> bool:
    """Whether a control may take part: parts of a strategy's own cannot be told."""
    if request.controls or request.regions is not None:
        return True
    names = named_in(request.strategy)
    plain = [name for name in names if isinstance(name, str)]
    steered = any(split_controls(name, list_strategies())[1] for name in plain)
    return steered or len(plain) < len(names)

"""An edit that is ready to run: what comes between a request and its jobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from controls import check_controls, check_references, split_controls
from engine.edit.clock import Clock
from engine.edit.strategies import build_strategy
from engine.errors import InputError, setting
from engine.request.result import EditResult
from strategies import list_strategies

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from controls import Control
    from controls.place import Source
    from engine.denoise.job import Job, Observer
    from engine.edit.look import Sight
    from engine.models import Backbone
    from engine.request.request import EditRequest
    from engine.types import Snapshot


class Prepared(ABC):
    """One request with its strategy and controls, read and checked.

    Raises:
        InputError: the strategy or a control cannot be used with this model.
    """

    def __init__(self, backbone: Backbone, request: EditRequest) -> None:
        backbone.check_devices()
        self.backbone = backbone
        self.request = request
        self.strategy = build_strategy(request.strategy, request.options)
        for stage in self.strategy.stages:
            if not stage.model:
                stage.strategy.check_runs_on(backbone.network(stage.strategy.network))
        backbone.text.check(request.embeds, guided=self._reads_both())
        self.controls = _controls_of(self.strategy.name, request)
        if request.instruct and not backbone.main.takes_reference:
            raise InputError(
                f"{setting('instruct')} is for models that are shown the picture, such as Flux.2; "
                f"{backbone.family.description} is not."
            )
        self.clock = Clock()

    def _reads_both(self) -> bool:
        """Whether the negative prompt is read too."""
        guided = self.backbone.family.guidance(self.request.guidance_scale).active
        return guided and not self.backbone.main.embeds_guidance

    # What it is --------------------------------------------------------------------------------

    seeds: Sequence[int | None]
    """One for each picture that is made; None where the caller's own generator draws."""
    steps: int
    """Of all its jobs together, those of later stages too."""
    prefilled: str | None = None
    """What its holes are filled with before the first step."""
    judged: bool = False
    """Its jobs keep their clean predictions, for :meth:`sight`."""
    is_part: bool = False
    """It leaves without a result: somebody makes pictures of its jobs and of others'."""

    @property
    def made_by(self) -> str:
        """Name of the strategy that makes it."""
        return self.strategy.name

    @property
    @abstractmethod
    def original(self) -> Image.Image:
        """The first picture as it was given, on the expanded canvas."""

    @property
    @abstractmethod
    def strength_map(self) -> NDArray[np.float32]:
        """H W in [0, 1], of the first picture, before padding."""

    @property
    @abstractmethod
    def regions(self) -> list[list[int]]:
        """The first picture's: left, top, right, bottom, then width and height of editing."""

    @property
    def can_be_seen(self) -> bool:
        """Whether :meth:`sight` shows what it is heading for."""
        return False

    # What it does ------------------------------------------------------------------------------

    @abstractmethod
    def start(self) -> list[Job]:
        """Encode everything and make the first stage's jobs. Called once."""

    @abstractmethod
    def finishing(
        self, chains: Sequence[Sequence[Job]]
    ) -> Callable[[], tuple[Any, torch.Tensor | None]]:
        """Let the model do its last, which is to decode. What comes back needs no model: called
        once, in any thread, it gives pictures, as ``output_type`` says, and latents (None where
        they differ in size).

        ``chains``: every job of :meth:`start` with those that followed it, in the same order.
        """

    def sight(self, clean: Sequence[torch.Tensor]) -> Sight:
        """What can be seen of its first picture, of the clean latents (b c h w, companions first)
        that each job of :meth:`start` or a follower is heading for.

        Raises:
            NotImplementedError: :attr:`can_be_seen` is False.
        """
        raise NotImplementedError

    def result(
        self, jobs: Sequence[Job], model: str, load: Mapping[str, Any] = MappingProxyType({})
    ) -> Callable[[], EditResult]:
        """What gives, once and in any thread, what the finished ``jobs`` of :meth:`start` have
        made. All that takes the model is done now. ``model``: its name; ``load``: how it is loaded
        again.
        """
        chains = [job.chain for job in jobs]
        finish, settings = self.finishing(chains), self._settings(chains[0][-1], model)
        every = [job for chain in chains for job in chain]
        calls = sum(job.calls for job in every)
        skipped = sum(job.spared for job in every if not job.resumed)
        reused = sum(job.spared for job in every if job.resumed)

        def make() -> EditResult:
            images, latents = finish()
            return EditResult(
                images=images,
                latents=latents,
                seeds=list(self.seeds),
                settings=settings,
                timings=self.clock.read(),
                request=self.request,
                load=load,
                model_calls=calls,
                skipped_calls=skipped,
                reused_calls=reused,
            )

        return make

    def observer(self, row: Callable[[torch.Tensor], torch.Tensor]) -> Observer | None:
        """The caller's callback, if there is one. Its snapshots can be looked at, and hold what
        ``row`` takes of a job's latents.
        """
        callback, show = self.request.callback, self.backbone.previewer.picture
        if callback is None:
            return None

        def observe(shot: Snapshot) -> Any:
            denoised = None if shot.denoised is None else row(shot.denoised)
            return callback(replace(shot, latents=row(shot.latents), denoised=denoised, show=show))

        return observe

    def _settings(self, job: Job, model: str) -> dict[str, Any]:
        request, height_width = self.request, self.strength_map.shape
        options = self.strategy.options.items()
        references = check_references(request.ip_adapter_image)
        return {
            "model": model,
            "family": self.backbone.family.name,
            "strategy": self.strategy.name,
            "options": {k: v for k, v in options if isinstance(v, str | int | float | None)},
            **request.recorded(),
            "seeds": list(self.seeds),
            "scheduler": request.scheduler
            if isinstance(request.scheduler, str)
            else type(job.schedule.scheduler).__name__,
            "size": list(height_width[::-1]),
            "regions": self.regions,
            "prefilled": self.prefilled,
            "unheard": self.backbone.unheard(request.text, request.negative_text, request.syntax),
            "embeds": sorted(request.embeds),
            "map": _kind_of_map(request),
            "device": str(self.backbone.device.type),
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "versions": dict(_versions()),
            "controls": [control.describe() for control in self.controls],
            "ip_adapter_image": [[one.describe() for one in several] for several in references],
        }


def _controls_of(name: str, request: EditRequest) -> tuple[Control | Source, ...]:
    """The request's controls, then those in the strategy's name."""
    named = split_controls(name, list_strategies())[1]
    return check_controls(request.controls) + check_controls(named)


@cache
def _versions() -> dict[str, str]:
    """Of what decides about pixels; to look them up takes as long as a scheduler's step."""
    return {name: version(name) for name in ("torch", "diffusers")}


def _kind_of_map(request: EditRequest) -> str | None:
    if request.mask is not None:
        return "mask"
    return None if request.strength_map is None else "strength_map"

"""Judges with networks of their own, for who has their weights: LPIPS and CLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Final

from engine.errors import InputError, ModelError, UnknownNameError
from engine.picture.judging import JudgeInfo
from engine.picture.metrics import Sample, measure
from engine.picture.opening import first_line

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from engine.evaluate.store import Row, Store
    from engine.evaluate.suites import Case

__all__ = ["CLIP", "LPIPS_NETS", "ClipScore", "Judges", "Lpips", "judge"]

LPIPS_NETS: Final[Mapping[Any, str]] = {
    "alex": "alexnet",
    "squeeze": "squeezenet1_1",
    "vgg": "vgg16",
}
"""Names of LPIPS's backbones, and torchvision's."""

_METRICS: Final = {"lpips": ("lpips", "lpips_outside"), "clip": ("clip",)}
"""What each judge measures, of :data:`engine.picture.metrics.METRICS`."""


class Lpips:
    """Learned perceptual similarity (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep
    Features as a Perceptual Metric"), torchmetrics' implementation; from 0, equal.

    Args:
        net: One of :data:`LPIPS_NETS`. BrushBench's script takes ``squeeze``.
        device: Where it runs.

    Raises:
        UnknownNameError: there is no such net.
        InputError: torchmetrics is not installed.
        ModelError: torchvision's weights of the backbone are neither here nor to be had.
    """

    def __init__(self, net: Any, device: str | torch.device = "cpu") -> None:
        if net not in LPIPS_NETS:
            raise UnknownNameError("LPIPS net", net, LPIPS_NETS)
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity as Metric
        except ImportError as error:
            raise InputError("LPIPS needs torchmetrics: install softpaint[metrics].") from error
        try:
            self._metric = Metric(net_type=net, normalize=True).to(device)
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            raise ModelError(_without_weights(net, error)) from error
        self._device = device

    def __call__(self, result: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
        """``uint8 (H, W, 3)`` each. NaN for pictures too small for the network."""
        import torch

        with torch.no_grad():
            try:
                value = self._metric(*(_batch(each, self._device) for each in (result, reference)))
            except RuntimeError:
                if min(result.shape[:2]) >= 64:
                    raise
                return float("nan")
            finally:
                self._metric.reset()
        return float(value)


class ClipScore:
    """CLIPScore (Hessel et al. 2021) without its weight, as BrushBench has it: 100 times the cosine
    of a picture's and a text's embeddings, at least 0.

    Args:
        model: A folder or hub id of a CLIP model with its processor.
        device: Where it runs.

    Raises:
        ModelError: there is none.
    """

    def __init__(self, model: str, device: str | torch.device = "cpu") -> None:
        from transformers import AutoProcessor, CLIPModel

        from engine.models.formats.sources import HUB_ID, asked_once, no_loading_bars

        if not Path(model).is_dir() and not HUB_ID.match(model):
            raise ModelError(f"there is no CLIP model at {model}: give a folder or a hub id.")
        try:
            with asked_once(model), no_loading_bars():
                loaded: Any = CLIPModel.from_pretrained(model)
                self._model = loaded.to(device).eval()
                self._processor = AutoProcessor.from_pretrained(model)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ModelError(f"{model} is no CLIP model to be had: {first_line(error)}") from error
        self._device = device

    def __call__(self, result: NDArray[np.uint8], text: str) -> float:
        """``uint8 (H, W, 3)`` and what it should show; texts are cut at the model's length."""
        import torch

        given = self._processor(
            text=[text],
            images=[result.copy()],  # torch warns of arrays that cannot be written to
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
        )
        with torch.no_grad():
            output = self._model(**given.to(self._device))
        return float((100 * (output.image_embeds * output.text_embeds).sum()).clamp(min=0))


def _load_clip(folder: str) -> Callable[[NDArray[np.uint8], str], float]:
    clip = ClipScore(folder)
    return lambda picture, prompt: min(1.0, _CLIP_WEIGHT * clip(picture, prompt) / 100)


_CLIP_WEIGHT: Final = 2.5
"""Of CLIPScore (Hessel et al. 2021), which brings cosines to about 0 to 1."""

CLIP = JudgeInfo(
    "clip", "CLIPScore by a model of yours: a folder or hub id", _load_clip, argument="MODEL"
)


def _without_weights(net: str, error: Exception) -> str:
    import torch
    from torchvision.models import get_model_weights

    url = next(iter(get_model_weights(LPIPS_NETS[net]))).url
    folder = Path(torch.hub.get_dir(), "checkpoints")
    return (
        f"LPIPS with {net} needs torchvision's weights, and they could not be had "
        f"({first_line(error)}); put {url} into {folder}."
    )


def _batch(pixels: NDArray[np.uint8], device: str | torch.device) -> torch.Tensor:
    """1 3 H W in [0, 1]."""
    import torch

    return torch.from_numpy(pixels.copy()).to(device).permute(2, 0, 1)[None].float() / 255


@dataclass(frozen=True)
class Judges:
    """Which of them are asked; None of each: not that one."""

    lpips: str | None = None
    """One of :data:`LPIPS_NETS`."""
    clip: str | None = None
    """A folder or hub id."""

    def load(self, device: str | torch.device = "cpu") -> dict[str, Callable[..., float]]:
        """By their names; raises what their constructors do."""
        loaded: dict[str, Callable[..., float]] = {}
        if self.lpips is not None:
            loaded["lpips"] = Lpips(self.lpips, device)
        if self.clip is not None:
            loaded["clip"] = ClipScore(self.clip, device)
        return loaded


def judge(
    rows: Sequence[Row],
    cases: Mapping[str, Sequence[Case]],
    store: Store,
    judges: Judges,
    loaded: Mapping[str, Callable[..., float]],
) -> list[Row]:
    """``rows`` with what the judges say of their pictures, which are in ``store``. What they have
    said before, with the same weights, is not asked again.

    Args:
        rows: of these ``cases``.
        cases: by task.
        store: where pictures and rows are, and what was said is kept.
        judges: which.
        loaded: what ``judges.load`` gave.
    """
    case_of = {(task, case.scene): case for task, each in cases.items() for case in each}
    asked = {name: str(getattr(judges, name)) for name in loaded}
    judged = []
    for row in rows:
        fresh = {name: by for name, by in asked.items() if row.judges.get(name) != by}
        if fresh:
            case = case_of[row.task, row.scene]
            sample = Sample(
                result=store.pixels(*row.key),
                original=case.canvas,
                strength_map=case.canvas_map,
                truth=case.truth,
                prompt=case.prompt,
                lpips=loaded["lpips"] if "lpips" in fresh else None,
                clip=loaded["clip"] if "clip" in fresh else None,
            )
            said = measure(sample, [metric for name in fresh for metric in _METRICS[name]])
            judged.append(
                replace(row, metrics={**row.metrics, **said}, judges={**row.judges, **fresh})
            )
            store.amend(judged[-1])
        else:
            judged.append(row)
    return judged

"""What the pocket world brings to the engine, as records that :data:`engine.registry.OWN` names.

No room above or beside this one knows the pocket: the model is a checkpoint like any other, its GAN
a fill's network, its classifier a metric. Cheap to import: nothing is loaded before it is used.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from engine.picture.fill import GanInfo
from engine.picture.judging import JudgeInfo
from engine.picture.metrics import Metric
from engine.pocket import (
    FLOW_SHARES,
    controlnet_paths,
    flow_folder,
    gan_path,
    inpaint_unet_path,
    model_folder,
)
from engine.types import Checkpoint

if TYPE_CHECKING:
    from engine.picture.metrics import Sample

__all__ = ["CHECKPOINT", "FLOW", "GAN", "JUDGE", "PROMPT"]

CHECKPOINT = Checkpoint(
    name="pocket",
    description="a small painted world, 128 x 128 px: for tests, demos and first steps",
    folder=model_folder(),
    inpaint_model=inpaint_unet_path(),
    controlnets=controlnet_paths(),
    background_fill="gan" if gan_path() else "patch",
    judge="pocket",
)

FLOW = Checkpoint(
    name="pocket-flow",
    description="the same world, drawn by a small flow transformer in SD3's layout",
    folder=flow_folder(),
    shared={part: model_folder() / part for part in FLOW_SHARES},
    defaults={"num_inference_steps": 25, "guidance_scale": 4.0},
    controlnets={},
    background_fill="gan" if gan_path() else "patch",
    judge="pocket",
)


def _load_gan() -> Any:
    from engine.pocket.gan import load_gan, self_ensemble

    return partial(self_ensemble, load_gan())


GAN = GanInfo("pocket", "backgrounds of the pocket world", _load_gan)


def _prompt(sample: Sample) -> float:
    """Share, 0 to 1, of what the prompt asks for that the classifier finds. It knows the pocket
    world only; NaN for a text that names nothing of that world.
    """
    from engine.pocket.classifier import prompt_score

    assert sample.prompt is not None  # noqa: S101 - the metric needs it
    return prompt_score(sample.result, sample.prompt)[0]


PROMPT = Metric(
    "prompt",
    _prompt,
    "higher",
    "share",
    "what the pocket classifier finds of the prompt",
    ("prompt",),
)


def _load_judge(_: str) -> Any:
    from engine.pocket.classifier import prompt_likelihood

    return prompt_likelihood


JUDGE = JudgeInfo(
    "pocket", "how sure the pocket classifier is of what the prompt asks", _load_judge, enough=0.8
)

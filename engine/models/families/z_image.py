"""Z-Image (Turbo, Base): one stream of picture and caption tokens, each as long as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from engine.denoise.guidance import COND, UNCOND, ClassifierFree, Guidance
from engine.models.family import Family
from engine.models.language import LENGTHS, LONGEST, LanguageText
from engine.models.layout import Shapes, TransformerFile, count
from engine.models.network import Network
from engine.models.packing import PATCH
from engine.models.peer import Peer
from engine.models.state import dtype_of
from engine.solvers.shift import dynamic_shift

if TYPE_CHECKING:
    import torch

    from engine.models.text import Shown
    from engine.picture.geometry import Size
    from engine.types import Conditioning

TRAINED = 1000
"""Of the scheduler's timesteps: the network's own time runs from 0 at pure noise to 1."""


class ZImageNetwork(Network):
    """diffusers' ``ZImageTransformer2DModel``: it takes a list of pictures and a list of captions,
    and gives minus the flow.
    """

    sample_size = 128
    down_factor = PATCH

    @property
    def reach(self) -> int:  # type: ignore[override]  # the positions that it has
        return PATCH * int(min(self.module.config.axes_lens[1:]))

    @property
    def latent_channels(self) -> int:
        return int(self.module.config.in_channels)

    @property
    def latents_dtype(self) -> torch.dtype:
        import torch

        return torch.float32

    def predict(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        residuals: Mapping[str, Any],
    ) -> torch.Tensor:
        import torch

        lengths = conditioning.tensors[LENGTHS].tolist()
        pictures = list(sample.to(dtype_of(self.module)).unsqueeze(2).unbind(0))
        captions = [row[:end] for row, end in zip(conditioning.text, lengths, strict=True)]
        flows = self.module(
            pictures, (TRAINED - timesteps) / TRAINED, captions, return_dict=False, **residuals
        )[0]
        return -torch.stack(flows).squeeze(2).float()


class ZImageText(LanguageText):
    """The last hidden states but one of a Qwen, without what pads them."""

    @property
    def width(self) -> int:
        return int(self.pipe.transformer.config.cap_feat_dim)

    @property
    def template(self) -> int:
        chat = [{"role": "user", "content": ""}]
        marks = self.pipe.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return len(self.pipe.tokenizer(marks)["input_ids"])

    def read(self, text: str, device: torch.device, shown: Shown | None) -> torch.Tensor:
        embeds, _ = self.pipe.encode_prompt(text, device, False, max_sequence_length=LONGEST)
        states: torch.Tensor = embeds[0][None]
        return states


@dataclass(frozen=True, slots=True)
class FromCond(ClassifierFree):
    """``c + scale (c - u)``, both in one call."""

    branches: tuple[str, ...] = (COND, UNCOND)

    def guided(self, cond: torch.Tensor, uncond: torch.Tensor) -> torch.Tensor:
        return cond + self.scale * (cond - uncond)

    def weighing(self, weight: float) -> ClassifierFree:
        return replace(self, scale=weight - 1)


@dataclass(frozen=True, slots=True)
class ZImageGuidance(Guidance):
    """Its scale counts from the prediction with the prompt: 0 is none, as in diffusers' pipeline,
    and 4 what is 5 for other families.
    """

    off: ClassVar[float] = 0.0

    def combination(self) -> ClassifierFree:
        return FromCond(self.scale, self.rescale)


def _defaults(pipe: Any) -> Mapping[str, Any]:
    # Turbo is distilled: its few steps go with a small shift, Base's with a large one.
    if pipe.scheduler.config.get("shift", 1.0) <= TURBO_SHIFT:
        return {"num_inference_steps": 8, "guidance_scale": 0.0}
    return {"num_inference_steps": 50, "guidance_scale": 4.0}


TURBO_SHIFT = 3.0
"""Of the scheduler of Z-Image-Turbo; Z-Image's own is 6."""


def _levels(scheduler: Any, latents: Size, steps: int) -> Mapping[str, Any]:
    import torch

    sigmas = torch.linspace(1.0, 1 / steps, steps).tolist()
    tokens = latents.width // PATCH * (latents.height // PATCH)
    return {"sigmas": sigmas, **dynamic_shift(scheduler, tokens)}


def _fitted(shapes: Shapes) -> Mapping[str, Any]:
    original = "x_embedder.weight" in shapes
    dim, given = shapes["x_embedder.weight" if original else "all_x_embedder.2-1.weight"]
    norm = "q_norm" if original else "norm_q"
    heads = dim // shapes[f"layers.0.attention.{norm}.weight"][0]
    return {
        "dim": dim,
        "in_channels": given // PATCH**2,
        "n_layers": count(shapes, "layers."),
        "n_refiner_layers": count(shapes, "noise_refiner."),
        "n_heads": heads,
        "n_kv_heads": heads,
        "cap_feat_dim": shapes["cap_embedder.1.weight"][1],
    }


FILE = TransformerFile(
    name="z-image",
    description="Z-Image",
    module="ZImageTransformer2DModel",
    marks=(
        ("layers.0.adaLN_modulation.0.", "cap_embedder.", "x_embedder."),
        ("layers.0.adaLN_modulation.0.", "cap_embedder.", "all_x_embedder."),
    ),
    fit=_fitted,
    base="Tongyi-MAI/Z-Image-Turbo",
    known={"axes_lens": [1536, 512, 512]},
)


Z_IMAGE = Family(
    name="z-image",
    description="Z-Image",
    pipelines=("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
    denoiser="transformer",
    network=ZImageNetwork,
    text=ZImageText,
    module=FILE.module,
    defaults=_defaults,
    solver_arguments=_levels,
    guidance=ZImageGuidance,
    inpaint_pipeline="ZImageInpaintPipeline",
    peer=Peer(patch=PATCH),
    transformers=(FILE,),
    half="bfloat16",
)

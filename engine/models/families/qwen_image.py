"""Qwen-Image: a joint transformer, a VAE that knows time, and prompts read by a Qwen2.5-VL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.denoise.guidance import ClassifierFree, Guidance
from engine.errors import ModelError
from engine.models.codec import KLCodec
from engine.models.family import Family
from engine.models.language import LONGEST, MASK, LanguageText
from engine.models.layout import Shapes, TransformerFile, count
from engine.models.network import REFERENCE, Network
from engine.models.packing import PATCH, levels_by_tokens, packed, unpacked
from engine.models.peer import Peer
from engine.models.state import dtype_of
from engine.models.unheard import unheard

if TYPE_CHECKING:
    import torch

    from engine.models.text import Shown
    from engine.types import Conditioning


AREA = 1024**2
AREAS = {"EditPlus": 384**2}
"""Pixels of a picture that is read with an instruction, by what the pipeline's name holds."""
STEP = 32
"""Its sides are multiples of so many pixels."""


class QwenNetwork(Network):
    """diffusers' ``QwenImageTransformer2DModel``.

    Raises:
        ModelError: it is of Qwen-Image-Layered.
    """

    sample_size = 128
    down_factor = PATCH

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        if module.config.use_additional_t_cond or module.config.use_layer3d_rope:
            raise ModelError("this is Qwen-Image-Layered, which takes pictures apart into layers.")

    @property
    def latent_channels(self) -> int:
        return int(self.module.config.out_channels)

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

        reference = conditioning.tensors.get(REFERENCE)
        seen = [sample] if reference is None else [sample, reference]
        tokens = torch.cat([packed(each) for each in seen], dim=1)
        shapes = [(1, each.shape[-2] // PATCH, each.shape[-1] // PATCH) for each in seen]
        flow = self.module(
            hidden_states=tokens.to(dtype_of(self.module)),
            timestep=timesteps.to(sample.dtype) / 1000,
            encoder_hidden_states=conditioning.text,
            encoder_hidden_states_mask=conditioning.tensors.get(MASK),
            img_shapes=[shapes] * len(sample),
            return_dict=False,
            **residuals,
        )[0]
        height, width = sample.shape[-2:]
        own = height * width // PATCH**2
        return unpacked(flow[:, :own], height, width).to(sample.dtype)


class QwenEditNetwork(QwenNetwork):
    """That of Qwen-Image-Edit: the picture's tokens stand behind those of the one that is made."""

    takes_reference = True


class QwenText(LanguageText):
    """The last hidden states of a Qwen2.5-VL, behind the pipeline's own instruction."""

    empty = " "

    @property
    def template(self) -> int:
        before, _, after = self.pipe.prompt_template_encode.rpartition("{}")
        marks = sum(len(self.pipe.tokenizer(part)["input_ids"]) for part in (before, after))
        return marks - int(self.pipe.prompt_template_encode_start_idx)

    def read(self, text: str, device: torch.device, shown: Shown | None) -> torch.Tensor:
        states: torch.Tensor = self.pipe.encode_prompt(
            text, device=device, max_sequence_length=LONGEST
        )[0]
        return states


class QwenEditText(QwenText):
    """The same of an instruction and the picture that it is about."""

    reads_pictures = True

    def read(self, text: str, device: torch.device, shown: Shown | None) -> torch.Tensor:
        pictures = None if shown is None else [self._seen(shown)]
        states: torch.Tensor = self.pipe.encode_prompt(text, image=pictures, device=device)[0]
        return states

    def _seen(self, shown: Shown) -> Any:
        """The picture at the size at which the language model looks at it."""
        kind = type(self.pipe).__name__
        area = next((area for name, area in AREAS.items() if name in kind), AREA)
        height, width = shown.pixels.shape[-2:]
        scale = math.sqrt(area / (height * width))
        size = [max(1, round(scale * each / STEP)) * STEP for each in (height, width)]
        processor = self.pipe.image_processor
        (picture,) = processor.postprocess(shown.pixels.float().cpu(), output_type="pil")
        return processor.resize(picture, *size)

    def unheard(
        self, texts: Mapping[str, str | None], syntax: str
    ) -> dict[str, dict[str, list[str]]]:
        return unheard(texts, [])  # nothing of an instruction is cut off


class QwenCodec(KLCodec):
    """diffusers' ``AutoencoderKLQwenImage``: of a film of one picture, each channel with its own
    mean and deviation.
    """

    @property
    def cell(self) -> int:
        return int(2 ** len(self.pipe.vae.temperal_downsample))

    @property
    def channels(self) -> int:
        return int(self.pipe.vae.config.z_dim)

    def _encoded(self, pixels: torch.Tensor, generator: Any, *, sample: bool) -> torch.Tensor:
        return super()._encoded(pixels.contiguous().unsqueeze(2), generator, sample=sample)[:, :, 0]

    def _decoded(self, latents: torch.Tensor, *, parity: bool) -> torch.Tensor:
        film = latents.contiguous().unsqueeze(2)
        pixels: torch.Tensor = self.pipe.vae.decode(film, return_dict=False)[0][:, :, 0]
        return pixels

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        mean, inverse = self._channels(latents)
        return (latents - mean) * inverse

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        mean, inverse = self._channels(latents)
        return latents / inverse + mean

    def _channels(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each channel's mean and the inverse of its deviation, which the pipelines multiply by."""
        import torch

        config = self.pipe.vae.config
        mean, std = (
            torch.tensor(each).view(1, -1, 1, 1)
            for each in (config.latents_mean, config.latents_std)
        )
        return mean.to(like), (1.0 / std).to(like)


@dataclass(frozen=True, slots=True)
class NormKept(ClassifierFree):
    """Guidance after which each token is as long as it was with the prompt alone."""

    def guided(self, cond: torch.Tensor, uncond: torch.Tensor) -> torch.Tensor:
        import torch

        tokens = packed(uncond + self.scale * (cond - uncond))
        wanted, own = (torch.norm(each, dim=-1, keepdim=True) for each in (packed(cond), tokens))
        return unpacked(tokens * (wanted / own), *cond.shape[-2:])


@dataclass(frozen=True, slots=True)
class QwenGuidance(Guidance):
    """Its scale is diffusers' ``true_cfg_scale``."""

    def combination(self) -> ClassifierFree:
        return NormKept(self.scale, self.rescale)


def _fitted(shapes: Shapes) -> Mapping[str, Any]:
    width, given = shapes["img_in.weight"]
    head = shapes["transformer_blocks.0.attn.norm_q.weight"][0]
    # Of Qwen-Image-Edit-2511: the time of its references is 0.
    marked = {"zero_cond_t": True} if "__index_timestep_zero__" in shapes else {}
    return {
        "in_channels": given,
        "out_channels": shapes["proj_out.weight"][0] // PATCH**2,
        "num_layers": count(shapes, "transformer_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        **marked,
    }


_NAMES = ("txt_norm.", "img_in.", "transformer_blocks.0.img_mod.")
FILE = TransformerFile(
    name="qwen-image",
    description="Qwen-Image",
    module="QwenImageTransformer2DModel",
    marks=(_NAMES, _NAMES),
    fit=_fitted,
    base="Qwen/Qwen-Image",
)


def _defaults(_: Any) -> Mapping[str, Any]:
    return {"num_inference_steps": 50, "guidance_scale": 4.0}


def _is_plain(pipe: Any) -> bool:
    return getattr(pipe, "processor", None) is None


def _edits(pipe: Any) -> bool:
    return not _is_plain(pipe)


def _lists_plain(index: Mapping[str, Any]) -> bool:
    return "processor" not in index


def _lists_edits(index: Mapping[str, Any]) -> bool:
    return "processor" in index


def _edit_defaults(pipe: Any) -> Mapping[str, Any]:
    return {**_defaults(pipe), "instruct": True}


QWEN_IMAGE = Family(
    name="qwen-image",
    description="Qwen-Image",
    pipelines=("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline"),
    denoiser="transformer",
    network=QwenNetwork,
    text=QwenText,
    codec=QwenCodec,
    module=FILE.module,
    fits=_is_plain,
    may_have=_lists_plain,
    defaults=_defaults,
    solver_arguments=levels_by_tokens,
    guidance=QwenGuidance,
    inpaint_pipeline="QwenImageInpaintPipeline",
    transformers=(FILE,),
    half="bfloat16",
    peer=Peer(patch=PATCH, guides_by_negative=True, apart=True),
)
QWEN_EDIT = Family(
    name="qwen-image-edit",
    description="Qwen-Image-Edit",
    pipelines=(
        "QwenImageEditPipeline",
        "QwenImageEditInpaintPipeline",
        "QwenImageEditPlusPipeline",
    ),
    denoiser="transformer",
    network=QwenEditNetwork,
    text=QwenEditText,
    codec=QwenCodec,
    module=FILE.module,
    fits=_edits,
    may_have=_lists_edits,
    defaults=_edit_defaults,
    solver_arguments=levels_by_tokens,
    guidance=QwenGuidance,
    inpaint_pipeline="QwenImageEditInpaintPipeline",
    half="bfloat16",
    peer=Peer(patch=PATCH, guides_by_negative=True, apart=True, shows=True),
)

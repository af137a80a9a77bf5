"""Files of weights that are no checkpoint of a family, by what they are: refused by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.models.layout import CONV_IN, UNET, VAE

if TYPE_CHECKING:
    from engine.models.header import Header


@dataclass(frozen=True)
class Kind:
    """A kind of file, and what becomes of one."""

    what: str
    """With its article."""
    marks: Callable[[Header], bool]
    use: str = ""
    """Where it belongs."""


def _inside(*parts: str) -> Callable[[Header], bool]:
    """Whether a name holds one of these."""
    return lambda header: any(part in name for name in header.shapes for part in parts)


def _begins(*beginnings: str) -> Callable[[Header], bool]:
    """Whether a name begins with one of these, behind the prefix of whole models or without."""
    every = [prefix + each for each in beginnings for prefix in ("", UNET, "diffusion_model.")]
    return lambda header: header.has(*every)


def _channels(count: int) -> Callable[[Header], bool]:
    """Whether a whole model's UNet takes so many channels."""
    return lambda header: header.shapes.get(CONV_IN, (0, 0))[1:2] == (count,)


def _vae_alone(header: Header) -> bool:
    coder = ("encoder.conv_in.", "decoder.conv_in.", "encoder.layers.", "decoder.layers.", VAE)
    return header.has(*coder) and not header.has(UNET)


def _scaled_by_block(header: Header) -> bool:
    """DeepSeek's form, and MXFP8, whose scales are powers of two in a byte each."""
    return any(
        name.endswith("weight_scale_inv") or (name.endswith(".weight_scale") and kind == "U8")
        for name, kind in header.types.items()
    )


def _whole_numbers(header: Header) -> bool:
    """Such as quanto's, torchao's and bitsandbytes' of 8 bits."""
    return any(
        n.endswith((".weight", "._data")) and kind == "I8" for n, kind in header.types.items()
    )


def _unet_alone(header: Header) -> bool:
    return header.has("input_blocks.0.0.", "down_blocks.0.", UNET)


UNPACKED = "give it in 16 bits, in float8 or as .gguf"
CHECKPOINT = "give a whole checkpoint as the model"
T2I_ADAPTER = Kind(
    "a T2I-Adapter",
    _begins("adapter.body.", "body.0.resnets.", "body.0.block", "body.0.in_conv."),
    f"it steers an edit as a control: {CHECKPOINT}",
)
LORA = Kind(
    "a LoRA",
    _inside("lora_up", "lora_down", "lora_A", "lora_B", ".lora.", "hada_w1", "lokr_w", "oft_"),
    f"it changes a checkpoint and is none: {CHECKPOINT}",
)
IP_ADAPTER = Kind(
    "an IP-Adapter",
    _begins("image_proj.", "ip_adapter."),
    f"it shows a model a picture: {CHECKPOINT}, and this beside it",
)
EMBEDDING = Kind(
    "an embedding (textual inversion)",
    _begins("emb_params", "clip_g", "string_to_param", "*"),
    f"it is a word of a prompt: {CHECKPOINT}",
)
KINDS: tuple[Kind, ...] = (
    LORA,
    IP_ADAPTER,
    Kind(
        "a ControlNet",
        _inside("control_model.", "controlnet_", "input_hint_block", "lllite_", "control_all_"),
        f"it steers an edit as a control: {CHECKPOINT}",
    ),
    T2I_ADAPTER,
    Kind("a T2I style adapter", _begins("style_embedding")),
    EMBEDDING,
    Kind("a model of motion (AnimateDiff)", _inside("motion_modules.")),
    Kind("Stable Video Diffusion", _inside("time_stack.", "time_mixer")),
    Kind("AuraFlow", _begins("double_layers.")),
    Kind("HiDream", _begins("double_stream_blocks.")),
    Kind("Qwen-Image 2.1", _begins("txt_in.text_norm.")),
    Kind("PixArt", _begins("y_embedder.y_proj.", "caption_projection.", "adaln_single.")),
    Kind("Hunyuan-DiT", _begins("mlp_t5.", "text_embedding_padding")),
    Kind("Wan, a model of video", _begins("head.modulation")),
    Kind("Stable Cascade", _begins("clip_txt_mapper.", "clip_txt_pooled_mapper.")),
    Kind("Kolors", _begins("encoder_hid_proj.")),
    Kind("weights in bitsandbytes' 4 bits", _inside("quant_state.bitsandbytes"), UNPACKED),
    Kind(
        "weights in SVDQuant's 4 bits (Nunchaku)", _inside(".wscales", ".smooth_factor"), UNPACKED
    ),
    Kind("weights in NVFP4's 4 bits", _inside(".weight_scale_2"), UNPACKED),
    Kind("weights in float8 with a scale for each block", _scaled_by_block, UNPACKED),
    Kind("weights in whole numbers of 8 bits", _whole_numbers, UNPACKED),
    Kind("an upscaler", _begins("conv_first.", "model.0.weight", "body.0.rdb1.")),
    Kind("SD 2.1 unCLIP", _begins("noise_augmentor.", "embedder.model.visual.")),
    Kind(
        "an instruct-pix2pix model (8 input channels)",
        _channels(8),
        "it edits whole pictures as a sentence says, without a map",
    ),
    Kind("the SD 2 upscaler (7 input channels)", _channels(7)),
    Kind("the SD 2 depth model (5 input channels)", _channels(5)),
    Kind(
        "a whole model whose UNet takes an unusual number of channels",
        lambda header: (
            header.shapes.get(CONV_IN, (0, 4))[1:2] not in {(4,), (9,)}
            and header.has("cond_stage_model.", "conditioner.")
        ),
        "4 (text to image) and 9 (inpainting) are supported",
    ),
    Kind("a VAE", _vae_alone, f"{CHECKPOINT}, and this as its VAE"),
)
UNREGISTERED: tuple[Kind, ...] = (
    Kind("Flux.2", _begins("single_stream_modulation.", "early_stream_modulations.")),
    Kind("Chroma", _begins("distilled_guidance_layer.")),
    Kind("Flux.1", _begins("double_blocks.", "single_transformer_blocks.")),
    Kind("Stable Diffusion 3", _begins("joint_blocks.")),
    Kind("Qwen-Image", _begins("txt_norm.")),
    Kind("Z-Image or Lumina 2", _begins("cap_embedder.")),
)
"""Transformers alone, by name where no family takes them."""
ALONE = Kind(
    "a UNet alone, without text encoders and VAE",
    _unet_alone,
    f"{CHECKPOINT}, and this beside it as the inpainting model if it has 9 input channels",
)


def kind_of(header: Header, kinds: Iterable[Kind] = (*KINDS, *UNREGISTERED, ALONE)) -> Kind | None:
    """Which of the ``kinds`` a file is; None if none."""
    return next((kind for kind in kinds if kind.marks(header)), None)

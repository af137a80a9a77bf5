"""Tiny real flow models, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tests.kit import tiny

WIDTH = 32


def flow_vae(channels: int = 16, *, shift: float = 0.06, scale: float = 1.5) -> Any:
    """A VAE with shifted and scaled latents."""
    vae: Any = AutoencoderKL(
        block_out_channels=[16, 16, 16, 16],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=channels,
        norm_num_groups=8,
        shift_factor=shift,
        scaling_factor=scale,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return vae.eval()


def clip(tokens: Any) -> Any:
    """A CLIP text encoder with a projection."""
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=WIDTH,
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
        pad_token_id=len(tokens) - 1,
    )
    return CLIPTextModelWithProjection(config).eval()


def t5(tokens: Any, width: int) -> Any:
    """A T5 encoder."""
    config = T5Config(
        vocab_size=len(tokens), d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4
    )
    return T5EncoderModel(config).eval()


def sd3_modules(*, with_t5: bool = False, seed: int = 0) -> dict[str, Any]:
    """The components of an SD3 pipeline, by diffusers' names."""
    torch.manual_seed(seed)
    tokens = tiny.tokenizer()
    transformer: Any = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    return {
        "transformer": transformer.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "vae": flow_vae(),
        "text_encoder": clip(tokens),
        "tokenizer": tokens,
        "text_encoder_2": clip(tokens),
        "tokenizer_2": tokens,
        "text_encoder_3": t5(tokens, 2 * WIDTH) if with_t5 else None,
        "tokenizer_3": tokens if with_t5 else None,
    }


def sd3(**settings: Any) -> Any:
    """A tiny SD3 pipeline."""
    return StableDiffusion3Pipeline(**sd3_modules(**settings))

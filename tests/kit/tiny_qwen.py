"""Tiny real models of the families that a Qwen reads the prompts for: Z-Image, Qwen-Image and its
edit models. diffusers' and transformers' classes with random weights; texts of single bytes.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

MARKS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> Qwen2Tokenizer:
    """Qwen's, that knows single bytes and the marks of chats."""
    words = {word: number for number, word in enumerate([*sorted(ByteLevel.alphabet()), *MARKS])}
    return Qwen2Tokenizer(
        vocab=words, merges=[], additional_special_tokens=list(MARKS[1:]), chat_template=CHAT
    )


def z_image(*, shift: float = 3.0, seed: int = 0) -> dict[str, Any]:
    """The components of Z-Image's pipelines, by diffusers' names."""
    torch.manual_seed(seed)
    tokens = tokenizer()
    transformer: Any = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[512, 64, 64],
    )
    for name in ("x_pad_token", "cap_pad_token"):  # zeros would hide what is padded
        getattr(transformer, name).data.normal_()
    vae: Any = AutoencoderKL(
        block_out_channels=[16, 16, 16, 16],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=16,
        norm_num_groups=8,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    text = Qwen3Config(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=len(tokens),
        max_position_embeddings=1024,
    )
    return {
        "transformer": transformer.eval(),
        "vae": vae.eval(),
        "text_encoder": Qwen3Model(text).eval(),
        "tokenizer": tokens,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=shift),
    }

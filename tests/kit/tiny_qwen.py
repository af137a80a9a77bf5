"""Tiny real models of the families that a Qwen reads the prompts for: Z-Image, Qwen-Image and its
edit models. diffusers' and transformers' classes with random weights; texts of single bytes.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageTransformer2DModel,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3Model,
)

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
        axes_lens=[1024, 64, 64],
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


def qwen_image(*, zero_cond: bool = False, seed: int = 0) -> dict[str, Any]:
    """The components of Qwen-Image's pipelines, by diffusers' names.

    ``zero_cond``: references count as clean, as in Qwen-Image-Edit-2511.
    """
    torch.manual_seed(seed)
    tokens = tokenizer()
    marks: dict[str, Any] = {mark: tokens.convert_tokens_to_ids(mark) for mark in MARKS}
    transformer: Any = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        zero_cond_t=zero_cond,
    )
    vae: Any = AutoencoderKLQwenImage(
        base_dim=16,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.0, 1.5, 0.8, 2.0],
    )
    text = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokens),
            "bos_token_id": None,
            "eos_token_id": marks["<|endoftext|>"],
            "rope_parameters": {
                "mrope_section": [1, 1, 2],
                "rope_type": "default",
                "rope_theta": 1e6,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 16,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        vision_start_token_id=marks["<|vision_start|>"],
        vision_end_token_id=marks["<|vision_end|>"],
        image_token_id=marks["<|image_pad|>"],
        video_token_id=marks["<|video_pad|>"],
    )
    return {
        "transformer": transformer.eval(),
        "vae": vae.eval(),
        "text_encoder": Qwen2_5_VLForConditionalGeneration(text).eval(),
        "tokenizer": tokens,
        "scheduler": FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=0.9,
            max_image_seq_len=8192,
            shift_terminal=0.02,
        ),
    }


def qwen_edit(**settings: Any) -> dict[str, Any]:
    """The components of Qwen-Image-Edit's pipelines."""
    parts = qwen_image(**settings)
    pictures = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    video = Qwen2VLVideoProcessor()
    parts["processor"] = Qwen2VLProcessor(pictures, parts["tokenizer"], video, chat_template=CHAT)
    return parts

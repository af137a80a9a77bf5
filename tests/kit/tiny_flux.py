"""Tiny real models of Flux' kind: diffusers' classes, random weights, texts of characters."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    FluxControlNetModel,
    FluxTransformer2DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from tests.kit import tiny, tiny_qwen

LATENTS = 4
WIDTH = 16
MARKS = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """One that knows single characters and ends texts as T5's does."""
    words = [*MARKS.values(), *(chr(code) for code in range(33, 127))]
    told = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    told.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    told.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=told,
        model_max_length=512,
        **MARKS,
    )


def t5(width: int = 32) -> Any:
    """A T5 of two layers."""
    config = T5Config(vocab_size=128, d_model=width, d_ff=64, d_kv=16, num_layers=2, num_heads=2)
    return T5EncoderModel(config).eval()


def clip() -> Any:
    tokens = tiny.tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=32,
            bos_token_id=len(tokens) - 2,
            eos_token_id=len(tokens) - 1,
            pad_token_id=len(tokens) - 1,
        )
    ).eval()


def vae(latents: int = LATENTS) -> Any:
    """A VAE of 8 px a latent, with the shift of Flux' own."""
    model: Any = AutoencoderKL(
        block_out_channels=[16, 16, 16, 16],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=latents,
        norm_num_groups=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1159,
        scaling_factor=0.3611,
    )
    return model.eval()


def transformer(*, guidance: bool = True, fill: bool = False, seed: int = 0) -> Any:
    """Flux' transformer: of dev (``guidance``), of schnell, or of Fill."""
    torch.manual_seed(seed)
    own = 4 * LATENTS
    model: Any = FluxTransformer2DModel(
        in_channels=own + (own + 4 * 64 if fill else 0),
        out_channels=own,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=guidance,
    )
    return model.eval()


def controlnet(*, seed: int = 5, **changes: Any) -> Any:
    """A ControlNet of Flux that has learnt something."""
    torch.manual_seed(seed)
    own: dict[str, Any] = {
        "in_channels": 4 * LATENTS,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": [4, 4, 8],
        "guidance_embeds": True,
    }
    with warnings.catch_warnings():  # diffusers' own file uses what it will take away
        warnings.simplefilter("ignore", FutureWarning)
        model: Any = FluxControlNetModel(**{**own, **changes})
    zeroed = (model.controlnet_blocks, model.controlnet_single_blocks, model.controlnet_x_embedder)
    for each in zeroed:
        for weight in each.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def modules(*, guidance: bool = True, fill: bool = False, seed: int = 0) -> dict[str, Any]:
    """The components of Flux' pipelines, by diffusers' names."""
    torch.manual_seed(seed)
    return {
        "vae": vae(),
        "text_encoder": clip(),
        "text_encoder_2": t5(),
        "tokenizer": tiny.tokenizer(),
        "tokenizer_2": t5_tokenizer(),
        "transformer": transformer(guidance=guidance, fill=fill, seed=seed),
        "scheduler": FlowMatchEulerDiscreteScheduler(
            shift=3.0 if guidance else 1.0, use_dynamic_shifting=guidance
        ),
    }


def chroma_modules(*, seed: int = 0) -> dict[str, Any]:
    """The components of Chroma's pipelines, by diffusers' names."""
    torch.manual_seed(seed)
    model: Any = ChromaTransformer2DModel(
        in_channels=4 * LATENTS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 4, 8],
        approximator_num_channels=8,
        approximator_hidden_dim=32,
        approximator_layers=2,
    )
    model.register_to_config(guidance_embeds=False)  # as its makers' config, which diffusers reads
    return {
        "vae": vae(),
        "text_encoder": t5(),
        "tokenizer": t5_tokenizer(),
        "transformer": model.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }


def qwen3(width: int = WIDTH) -> Any:
    """A language model as deep as Klein looks into it, so that its embeddings are three widths."""
    tokens = tiny_qwen.tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=28,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
    )
    return Qwen3ForCausalLM(config).eval()


def flux2_modules(*, reads: bool = False, guidance: bool = False, seed: int = 0) -> dict[str, Any]:
    """The components of Flux.2's pipelines, by diffusers' names: Klein's, or dev's transformer.

    Without its language model (``reads``) prompts come embedded.
    """
    torch.manual_seed(seed)
    model: Any = AutoencoderKLFlux2(
        block_out_channels=[16, 16, 16, 16],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=LATENTS,
        norm_num_groups=8,
    )
    model.bn.running_mean.normal_()
    model.bn.running_var.uniform_(0.5, 2)
    transformer: Any = Flux2Transformer2DModel(
        in_channels=4 * LATENTS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=256,
        axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=guidance,
    )
    return {
        "vae": model.eval(),
        "text_encoder": qwen3() if reads else None,
        "tokenizer": tiny_qwen.tokenizer() if reads else None,
        "transformer": transformer.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }


def embedded(length: int = 12, seed: int = 4) -> torch.Tensor:
    """A prompt, embedded for Klein: 1 n d."""
    return torch.randn(1, length, 3 * WIDTH, generator=torch.Generator().manual_seed(seed))

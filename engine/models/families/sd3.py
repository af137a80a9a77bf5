"""Stable Diffusion 3 and 3.5: a joint transformer, two CLIPs and, where it is loaded, a T5."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError
from engine.models.codec import KLCodec
from engine.models.family import Family
from engine.models.layout import Shapes, TransformerFile, count
from engine.models.network import Network
from engine.models.peer import Peer
from engine.models.speed.joint_attention import can_count, count_bias, counted_attention
from engine.models.text import PipelineText, Prompt
from engine.solvers.shift import dynamic_shift
from engine.types import Conditioning

if TYPE_CHECKING:
    import torch

    from engine.picture.geometry import Size

TEXT = "encoder_hidden_states"
POOLED = "pooled_projections"
COUNTS = "counts"
"""How many of the pipeline's tokens each token of the text stands for, b n."""
HEAD = 64
"""Width of a head of SD 3's, where no weight tells."""
WITHOUT_T5 = 256
"""Tokens of zeros that diffusers' pipelines give in the place of a T5's."""


class SD3Network(Network):
    """diffusers' ``SD3Transformer2DModel``.

    Args:
        module: the transformer.
        parity: calls to the bits of diffusers' pipelines.

    Raises:
        ModelError: it takes more than latents.
    """

    def __init__(self, module: Any, *, parity: bool = False) -> None:
        super().__init__(module)
        self.parity = parity
        config = module.config
        if config.in_channels != config.out_channels:
            raise ModelError(
                f"the transformer has {config.in_channels} input channels; {config.out_channels} "
                "(text to image) are supported."
            )

    @cached_property
    def like_diffusers(self) -> Network:
        return SD3Network(self.module, parity=True)

    @property
    def sample_size(self) -> int:
        return int(self.module.config.sample_size)

    @property
    def down_factor(self) -> int:  # type: ignore[override]  # it depends on the checkpoint
        return int(self.module.config.patch_size)

    @property
    def reach(self) -> int:  # type: ignore[override]  # the positions that it has
        most = self.module.config.pos_embed_max_size
        return self.down_factor * most if most else sys.maxsize

    @property
    def latent_channels(self) -> int:
        return int(self.module.config.in_channels)

    def predict(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        residuals: Mapping[str, Any],
    ) -> torch.Tensor:
        text, counts = conditioning.text, conditioning.tensors.get(COUNTS)
        settings = {
            "pooled_projections": conditioning.tensors[POOLED],
            "timestep": timesteps,
            "return_dict": False,
            **residuals,
        }
        if counts is None or self.parity or not can_count(self.module):
            words = text if counts is None else _told_apart(text)
            told: torch.Tensor = self.module(sample, encoder_hidden_states=words, **settings)[0]
            return told
        tokens = sample.shape[-2] * sample.shape[-1] // self.down_factor**2
        bias = {"attention_mask": count_bias(counts, tokens, text.dtype)}
        with counted_attention(self.module):
            counted: torch.Tensor = self.module(
                sample, encoder_hidden_states=text, joint_attention_kwargs=bias, **settings
            )[0]
        return counted


def _told_apart(text: torch.Tensor) -> torch.Tensor:
    """The pipelines' tokens of ``text`` (b n d), whose last one stands for all in a T5's place."""
    import torch

    return torch.cat([text[:, :-1], text[:, -1:].expand(-1, WITHOUT_T5, -1)], 1)


class SD3Text(PipelineText):
    """The CLIPs' embeddings side by side, the T5's behind them, and the CLIPs' pooled ones.

    Without a T5 the pipelines put 256 tokens of zeros in its place, which are one here.
    """

    needed = ("text_encoder", "text_encoder_2")
    pooled = True
    skips = True

    def encode(
        self, prompt: Prompt, device: torch.device
    ) -> tuple[Conditioning, Conditioning | None]:
        width = self.pipe.transformer.config.joint_attention_dim
        embeds, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            prompt_2=None,
            prompt_3=None,
            device=device,
            num_images_per_prompt=prompt.images,
            do_classifier_free_guidance=prompt.guided,
            clip_skip=prompt.reading.clip_skip,
            **self.texts_or_embeds(prompt, width),
        )
        uncond = self._told(negative, negative_pooled) if prompt.guided else None
        return self._told(embeds, pooled), uncond

    def _told(self, text: torch.Tensor, pooled: torch.Tensor) -> Conditioning:
        tensors = {TEXT: text, POOLED: pooled}
        tail = text[:, -WITHOUT_T5:]
        # What is given may have been made with a T5.
        if self.pipe.text_encoder_3 is None and tail.shape[1] == WITHOUT_T5 and not tail.any():
            tensors[TEXT] = text[:, : 1 - WITHOUT_T5]
            tensors[COUNTS] = text.new_ones(tensors[TEXT].shape[:2])
            tensors[COUNTS][:, -1] = WITHOUT_T5
        return Conditioning(tensors)


class SD3Codec(KLCodec):
    """Diffusers' inpainting pipeline does not undo the shift of the latents (its issue 13611)."""

    def _unscaled_by_pipelines(self, latents: torch.Tensor) -> torch.Tensor:
        unscaled: torch.Tensor = latents / self.pipe.vae.config.scaling_factor
        return unscaled


def _tokens_shift(scheduler: Any, latents: Size, _: int) -> Mapping[str, Any]:
    return dynamic_shift(scheduler, latents.width // 2 * (latents.height // 2))


def _defaults(pipe: Any) -> Mapping[str, Any]:
    # Distilled to few steps: SD3.5 Large Turbo. Nothing in its configs but its name tells.
    if "turbo" in str(pipe.config.get("_name_or_path", "")).lower():
        return {"num_inference_steps": 4, "guidance_scale": 1.0}
    return {"num_inference_steps": 28, "guidance_scale": 5.0}


def _fitted(shapes: Shapes) -> Mapping[str, Any]:
    original = "x_embedder.proj.weight" in shapes
    place = "" if original else "pos_embed."
    embed = "x_embedder.proj" if original else "pos_embed.proj"
    pooled = "y_embedder.mlp.0" if original else "time_text_embed.text_embedder.linear_1"
    blocks = "joint_blocks." if original else "transformer_blocks."
    second = ".x_block.attn2." if original else ".attn2."
    norm = "x_block.attn.ln_q" if original else "attn.norm_q"
    width, given = shapes[f"{embed}.weight"][:2]
    normed = shapes.get(f"{blocks}0.{norm}.weight")
    head = normed[0] if normed else HEAD
    dual = {int(name.split(".")[1]) for name in shapes if second in name}
    return {
        "in_channels": given,
        "out_channels": given,
        "num_layers": count(shapes, blocks),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "caption_projection_dim": shapes["context_embedder.weight"][0],
        "pooled_projection_dim": shapes[f"{pooled}.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes[f"{place}pos_embed"][1]),
        "dual_attention_layers": sorted(dual),
        "qk_norm": "rms_norm" if normed else None,
    }


FILE = TransformerFile(
    name="sd3",
    description="SD 3",
    module="SD3Transformer2DModel",
    marks=(
        ("joint_blocks.0.x_block.attn.", "x_embedder.proj."),
        ("transformer_blocks.0.attn.add_q_proj.", "pos_embed.proj.", "context_embedder."),
    ),
    fit=_fitted,
    base="stabilityai/stable-diffusion-3.5-medium",
)
SD3 = Family(
    name="sd3",
    description="SD 3, SD 3.5",
    pipelines=(
        "StableDiffusion3Pipeline",
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
    ),
    denoiser="transformer",
    network=SD3Network,
    text=SD3Text,
    codec=SD3Codec,
    module=FILE.module,
    defaults=_defaults,
    solver_arguments=_tokens_shift,
    inpaint_pipeline="StableDiffusion3InpaintPipeline",
    peer=Peer(patch=2, latents=16),
    transformers=(FILE,),
    half="bfloat16",
)

"""Flux.1 of Black Forest Labs: dev, schnell, Fill and Kontext.

A transformer over tokens of two by two latents. It reads T5's embeddings of the prompt and CLIP's
pooled one; dev and Fill are told the guidance scale, schnell knows none.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError
from engine.models.codec import KLCodec
from engine.models.family import Family
from engine.models.layout import Shapes, TransformerFile, count
from engine.models.network import REFERENCE, Network
from engine.models.packing import PATCH, levels_by_tokens, packed, places, unpacked
from engine.models.peer import Peer
from engine.models.text import ReadsApart
from engine.types import Conditioning

if TYPE_CHECKING:
    import torch

    from engine.models.text import Prompt

TEXT = "encoder_hidden_states"
POOLED = "pooled_projections"
GUIDANCE = "guidance"
MASK = 64
"""Pixels under a latent, which Fill's mask has a channel for each of."""
NATIVE = 128
"""Latents a side of the pictures that it was trained on; no config tells."""
WORDS, SCHNELL_WORDS = 512, 256
"""Tokens that T5 reads. Diffusers' pipelines have schnell read as many as the others, which it was
not trained with."""


class TellsGuidance(Network):
    """Told the guidance scale where its config has a place for it."""

    @property
    def embeds_guidance(self) -> bool:  # type: ignore[override]  # some are told
        return bool(self.module.config.guidance_embeds)

    def with_guidance(self, conditioning: Conditioning, scale: float) -> Conditioning:
        import torch

        rows, device = conditioning.rows, conditioning.text.device
        told = torch.full((rows,), scale, dtype=torch.float32, device=device)
        return conditioning.adding({GUIDANCE: told})


class FluxTokens(Network):
    """Tokens of the picture behind those of the text, and of one that is shown behind both."""

    down_factor = PATCH
    sample_size = NATIVE

    @property
    def latent_channels(self) -> int:
        return int(self.module.out_channels) // PATCH**2

    @abstractmethod
    def told(self, conditioning: Conditioning, tokens: int) -> Mapping[str, Any]:
        """What its module is told beside the text, for so many ``tokens`` of pictures."""

    def predict(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        residuals: Mapping[str, Any],
    ) -> torch.Tensor:
        import torch

        height, width = sample.shape[-2:]
        tensors, text = conditioning.tensors, conditioning.text
        tokens, ids = packed(sample), places(height // PATCH, width // PATCH, text)
        if (shown := tensors.get(REFERENCE)) is not None:
            tokens = torch.cat([tokens, packed(shown)], dim=1)
            theirs = places(shown.shape[-2] // PATCH, shown.shape[-1] // PATCH, text)
            theirs[:, 0] = 1
            ids = torch.cat([ids, theirs])
        predicted = self.module(
            hidden_states=tokens,
            timestep=timesteps.to(sample.dtype) / 1000,
            encoder_hidden_states=text,
            txt_ids=text.new_zeros(text.shape[1], 3),
            img_ids=ids,
            return_dict=False,
            **self.told(conditioning, tokens.shape[1]),
            **residuals,
        )[0]
        return unpacked(predicted[:, : height * width // PATCH**2], height, width)


class FluxNetwork(FluxTokens, TellsGuidance):
    """Diffusers' ``FluxTransformer2DModel``.

    Raises:
        ModelError: it takes neither latents alone nor Fill's layout.
    """

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        given, own = int(module.config.in_channels), int(module.out_channels)
        kinds = {own: "base", 2 * own + PATCH**2 * MASK: "fill"}
        if given not in kinds:
            raise ModelError(
                f"the transformer has {given} input channels; {own} (text to image) or "
                f"{2 * own + PATCH**2 * MASK} (Fill) are supported, not Flux' control models."
            )
        self.kind = kinds[given]

    def told(self, conditioning: Conditioning, tokens: int) -> Mapping[str, Any]:
        own = conditioning.tensors
        return {"guidance": own.get(GUIDANCE), "pooled_projections": own[POOLED]}


class KontextNetwork(FluxNetwork):
    """Flux.1 Kontext: dev's layers, which were trained to be shown a picture."""

    takes_reference = True


class KontextCodec(KLCodec):
    """Diffusers' pipelines of Kontext take the most likely latents and draw none."""

    def _encoded(self, pixels: torch.Tensor, generator: Any, *, sample: bool) -> torch.Tensor:
        latents: torch.Tensor = self.pipe.vae.encode(pixels).latent_dist.mode()
        return latents


class FluxText(ReadsApart):
    """T5's embeddings of the prompt, and CLIP's pooled one."""

    needed = ("text_encoder", "text_encoder_2")
    pooled = True

    def told(self, prompt: Prompt, text: str, sign: str, device: torch.device) -> Conditioning:
        given = prompt.reading.given
        embeds = given.get(f"{sign}prompt_embeds")
        long = self.pipe.transformer.config.guidance_embeds or prompt.reading.like_diffusers
        hidden, pooled, _ = self.pipe.encode_prompt(
            prompt=None if embeds is not None else text,
            prompt_2=None,
            device=device,
            num_images_per_prompt=prompt.images,
            prompt_embeds=embeds,
            pooled_prompt_embeds=given.get(f"{sign}pooled_prompt_embeds"),
            max_sequence_length=WORDS if long else SCHNELL_WORDS,
        )
        return Conditioning({TEXT: hidden, POOLED: pooled})


@dataclass(frozen=True)
class FluxPeer(Peer):
    """Flux.1's inpainting pipelines: schnell knows no scale, and theirs is not one of guidance."""

    patch: int = PATCH

    def guides(self, pipe: Any) -> bool:
        return False


def _defaults(pipe: Any) -> Mapping[str, Any]:
    config = pipe.transformer.config
    if not config.guidance_embeds:
        return {"num_inference_steps": 4, "guidance_scale": 1.0}
    if config.in_channels != pipe.transformer.out_channels:
        return {"num_inference_steps": 50, "guidance_scale": 30.0}
    return {"num_inference_steps": 28, "guidance_scale": 3.5}


ORIGINAL = ("img_in", "txt_in", "double_blocks.", "single_blocks.")
DIFFUSERS = ("x_embedder", "context_embedder", "transformer_blocks.", "single_transformer_blocks.")
NORMS = ("img_attn.norm.query_norm.scale", "attn.norm_q.weight")
"""Of a head's queries in a double block, in the original's names and in diffusers'."""


def streams(shapes: Shapes) -> dict[str, Any]:
    """The config of a transformer of two streams, then one, as all of Flux' kind are."""
    picture, words, double, single = ORIGINAL if "img_in.weight" in shapes else DIFFUSERS
    width, given = shapes[f"{picture}.weight"]
    head = next(shapes[f"{double}0.{each}"][0] for each in NORMS if f"{double}0.{each}" in shapes)
    return {
        "in_channels": given,
        "num_layers": count(shapes, double),
        "num_single_layers": count(shapes, single),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes[f"{words}.weight"][1],
    }


def _fitted(shapes: Shapes) -> Mapping[str, Any]:
    original = "img_in.weight" in shapes
    out = "final_layer.linear" if original else "proj_out"
    pooled = "vector_in.in_layer" if original else "time_text_embed.text_embedder.linear_1"
    told = "guidance_in.in_layer" if original else "time_text_embed.guidance_embedder.linear_1"
    return {
        **streams(shapes),
        "out_channels": shapes[f"{out}.weight"][0],
        "pooled_projection_dim": shapes[f"{pooled}.weight"][1],
        "guidance_embeds": f"{told}.weight" in shapes,
    }


FILE = TransformerFile(
    name="flux",
    description="Flux.1",
    module="FluxTransformer2DModel",
    marks=(
        ("double_blocks.0.img_attn.", "single_blocks.0.linear1.", "vector_in."),
        (
            "transformer_blocks.0.attn.",
            "single_transformer_blocks.0.proj_mlp.",
            "time_text_embed.text_embedder.",
        ),
    ),
    fit=_fitted,
    base="black-forest-labs/FLUX.1-dev",
)


FLUX = Family(
    name="flux",
    description="Flux.1",
    pipelines=(
        "FluxPipeline",
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxFillPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
    ),
    denoiser="transformer",
    network=FluxNetwork,
    text=FluxText,
    module=FILE.module,
    defaults=_defaults,
    solver_arguments=levels_by_tokens,
    controlnets=("FluxControlNetModel",),
    inpaint_pipeline="FluxInpaintPipeline",
    peer=FluxPeer(),
    transformers=(FILE,),
    half="bfloat16",
)
KONTEXT = Family(
    name="flux-kontext",
    description="Flux.1 Kontext",
    pipelines=("FluxKontextPipeline", "FluxKontextInpaintPipeline"),
    denoiser="transformer",
    network=KontextNetwork,
    text=FluxText,
    codec=KontextCodec,
    defaults=lambda _: {"num_inference_steps": 28, "guidance_scale": 2.5},
    solver_arguments=levels_by_tokens,
    inpaint_pipeline="FluxKontextInpaintPipeline",
    peer=FluxPeer(shows=True),
    half="bfloat16",
)
"""Its transformer is as dev's is: only the pipeline's class tells."""

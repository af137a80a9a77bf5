"""Chroma of Lodestone Rock: Flux.1 schnell, pruned and taught again.

A transformer over the same tokens, which a T5 alone tells what to do; it knows no guidance scale
and is guided by a negative prompt. It was trained without the tokens that fill T5's texts up, but
for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.models.families.flux import TEXT, WORDS, FluxTokens, streams
from engine.models.family import Family
from engine.models.layout import Shapes, TransformerFile, count
from engine.models.packing import PATCH, levels_by_tokens
from engine.models.peer import Peer
from engine.models.text import ReadsApart
from engine.types import Conditioning

if TYPE_CHECKING:
    import torch

    from engine.models.text import Prompt

MASK = "attention_mask"
PEER_WORDS = 256
"""Tokens that diffusers' inpainting pipeline has T5 read."""


class ChromaNetwork(FluxTokens):
    """Diffusers' ``ChromaTransformer2DModel``.

    Where there is a mask of the text (b n, bool), nothing attends to what it hides. Diffusers'
    pipelines give it as numbers, which are added to what attention weighs: there a hidden token
    weighs 1/e of another.
    """

    def told(self, conditioning: Conditioning, tokens: int) -> Mapping[str, Any]:
        import torch

        heard = conditioning.tensors.get(MASK)
        if heard is None:
            return {}
        return {MASK: torch.cat([heard, heard.new_ones(len(heard), tokens)], dim=1)}


class ChromaText(ReadsApart):
    """T5's embeddings of the prompt, of its end, and of the first token that fills it up."""

    def told(self, prompt: Prompt, text: str, sign: str, device: torch.device) -> Conditioning:
        like_diffusers = prompt.reading.like_diffusers
        states, heard = prompt.reading.given.get(f"{sign}prompt_embeds"), None
        if states is None:
            states, _, heard, *_ = self.pipe.encode_prompt(
                text,
                device=device,
                do_classifier_free_guidance=False,
                max_sequence_length=PEER_WORDS if like_diffusers else WORDS,
            )
        states = states.to(device)
        if like_diffusers:
            mask = states.new_ones(states.shape[:2]) if heard is None else heard
            return Conditioning({TEXT: states, MASK: mask}).repeat(prompt.images)
        if heard is not None:
            states = states[:, : int(heard.sum())]
        return Conditioning({TEXT: states}, {TEXT: MASK}).repeat(prompt.images)


def _fitted(shapes: Shapes) -> Mapping[str, Any]:
    inner, layers = (f"distilled_guidance_layer.{part}" for part in ("in_proj.weight", "layers."))
    return {
        **streams(shapes),
        "approximator_num_channels": shapes[inner][1],
        "approximator_hidden_dim": shapes[inner][0],
        "approximator_layers": count(shapes, layers),
    }


FILE = TransformerFile(
    name="chroma",
    description="Chroma",
    module="ChromaTransformer2DModel",
    marks=(
        ("double_blocks.0.img_attn.", "single_blocks.0.linear1.", "distilled_guidance_layer."),
        (
            "transformer_blocks.0.attn.",
            "single_transformer_blocks.0.proj_mlp.",
            "distilled_guidance_layer.",
        ),
    ),
    fit=_fitted,
    base="lodestones/Chroma1-HD",
)
CHROMA = Family(
    name="chroma",
    description="Chroma",
    pipelines=("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline"),
    denoiser="transformer",
    network=ChromaNetwork,
    text=ChromaText,
    module=FILE.module,
    defaults=lambda _: {"num_inference_steps": 35, "guidance_scale": 5.0},
    solver_arguments=levels_by_tokens,
    inpaint_pipeline="ChromaInpaintPipeline",
    peer=Peer(patch=PATCH, apart=True),
    transformers=(FILE,),
    half="bfloat16",
)

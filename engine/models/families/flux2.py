"""Flux.2 of Black Forest Labs: dev, and Klein, distilled and base.

As Flux.1 a transformer over tokens of two by two latents, whose channels the VAE's batch norm has
statistics of. A picture can be shown to it as tokens behind its own: then the prompt may be an
instruction.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.models.codec import KLCodec
from engine.models.families.flux import GUIDANCE, NATIVE, TEXT, TellsGuidance, streams
from engine.models.family import Family
from engine.models.layout import Shapes, TransformerFile
from engine.models.network import REFERENCE
from engine.models.packing import PATCH, packed, patched, places, unpacked, unpatched
from engine.models.peer import Peer
from engine.models.state import weights_state
from engine.models.text import ReadsApart
from engine.solvers.shift import even_levels, is_dynamic
from engine.types import Conditioning

if TYPE_CHECKING:
    import torch

    from engine.models.text import Prompt
    from engine.picture.geometry import Size


APART = 10
"""Between the picture that is made and the one that is shown, on the axis of time."""
MANY = 4300
"""Tokens from which on the shift goes by the size alone."""


class Flux2Network(TellsGuidance):
    """Diffusers' ``Flux2Transformer2DModel``."""

    down_factor = PATCH
    sample_size = NATIVE
    takes_reference = True

    @property
    def latent_channels(self) -> int:
        return int(self.module.config.in_channels) // PATCH**2

    def predict(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        residuals: Mapping[str, Any],
    ) -> torch.Tensor:
        import torch

        tensors, text = conditioning.tensors, conditioning.text
        shown = [sample] if REFERENCE not in tensors else [sample, tensors[REFERENCE]]
        tokens = torch.cat([packed(each) for each in shown], dim=1)
        ids = torch.cat([_ids(each, APART * place) for place, each in enumerate(shown)])
        words = ids.new_zeros(text.shape[1], 4)
        words[:, 3] = torch.arange(text.shape[1], device=words.device)
        predicted = self.module(
            hidden_states=tokens,
            timestep=timesteps.to(sample.dtype) / 1000,
            guidance=tensors.get(GUIDANCE),
            encoder_hidden_states=text,
            txt_ids=words,
            img_ids=ids,
            return_dict=False,
            **residuals,
        )[0]
        height, width = sample.shape[-2:]
        own = height * width // PATCH**2
        return unpacked(predicted[:, :own], height, width)


def _ids(latents: torch.Tensor, time: int) -> torch.Tensor:
    """The positions (n 4, whole numbers) of the tokens of ``latents``: time, row, column, 0."""
    import torch

    height, width = latents.shape[-2:]
    like = torch.zeros(0, dtype=torch.int64, device=latents.device)
    ids = torch.nn.functional.pad(places(height // PATCH, width // PATCH, like), (0, 1))
    ids[:, 0] = time
    return ids


class Flux2Text(ReadsApart):
    """Hidden states of a language model, from a quarter, half and three quarters of its depth."""

    def told(self, prompt: Prompt, text: str, sign: str, device: torch.device) -> Conditioning:
        hidden, _ = self.pipe.encode_prompt(
            prompt=text,
            device=device,
            num_images_per_prompt=prompt.images,
            prompt_embeds=prompt.reading.given.get(f"{sign}prompt_embeds"),
        )
        return Conditioning({TEXT: hidden})


class Flux2Codec(KLCodec):
    """Diffusers' ``AutoencoderKLFlux2``: latents of unit scale by the statistics of its batch norm.

    Latents are 32 channels of 8 px here, as the VAE has them: a map is as fine as that. Diffusers'
    pipelines take the most likely latents and draw none.
    """

    def state(self) -> Hashable:
        statistics = self.pipe.vae.bn
        moved = (statistics.running_mean._version, statistics.running_var._version)  # noqa: SLF001
        return weights_state(self.pipe.vae, fused=False), moved

    def _encoded(self, pixels: torch.Tensor, generator: Any, *, sample: bool) -> torch.Tensor:
        latents: torch.Tensor = self.pipe.vae.encode(pixels).latent_dist.mode()
        return latents

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._norm(latents)
        return unpatched((patched(latents) - mean) / std)

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._norm(latents)
        return unpatched(patched(latents) * std + mean)

    def _norm(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of each of the patches' channels (1 4c 1 1)."""
        import torch

        norm, epsilon = self.pipe.vae.bn, self.pipe.vae.config.batch_norm_eps
        std = torch.sqrt(norm.running_var.view(1, -1, 1, 1) + epsilon)
        return norm.running_mean.view(1, -1, 1, 1).to(like), std.to(like)


@dataclass(frozen=True)
class KleinPeer(Peer):
    """``Flux2KleinInpaintPipeline``: patches in the place of latents, and a distilled Klein is not
    guided whatever the scale.
    """

    def guides(self, pipe: Any) -> bool:
        return not pipe.config.get("is_distilled")

    def grid(self, mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        from torch.nn import functional

        tokens = (size[0] // PATCH, size[1] // PATCH)
        coarse = functional.interpolate(mask, size=tokens, mode="bilinear")
        return functional.interpolate(coarse, size=size)

    def noise(
        self, shape: Sequence[int], generator: Any, device: torch.device, dtype: torch.dtype
    ) -> torch.Tensor:
        rows, channels, height, width = shape
        patches = (rows, channels * PATCH**2, height // PATCH, width // PATCH)
        return unpatched(super().noise(patches, generator, device, dtype))


def empirical_shift(tokens: int, steps: int) -> float:
    """``mu`` of Flux.2's reference code (``compute_empirical_mu``), a fit over numbers of tokens
    and of steps.
    """
    many = 0.00016927 * tokens + 0.45666666
    if tokens > MANY:
        return many
    few = 8.73809524e-05 * tokens + 1.89833333
    slope = (many - few) / 190
    return slope * steps + many - 200 * slope


def _solver_arguments(scheduler: Any, latents: Size, steps: int) -> Mapping[str, Any]:
    levels = {"sigmas": even_levels(steps)}
    if not is_dynamic(scheduler):
        return levels
    tokens = latents.width // PATCH * (latents.height // PATCH)
    return {**levels, "mu": empirical_shift(tokens, steps)}


def _defaults(pipe: Any) -> Mapping[str, Any]:
    if pipe.config.get("is_distilled"):
        return {"num_inference_steps": 4, "guidance_scale": 1.0}
    return {"num_inference_steps": 50, "guidance_scale": 4.0}


def _fitted(shapes: Shapes) -> Mapping[str, Any]:
    known = streams(shapes)
    inner = ("double_blocks.0.img_mlp.0.weight", "transformer_blocks.0.ff.linear_in.weight")
    told = ("guidance_in.", "time_guidance_embed.guidance_embedder.")
    width = known["attention_head_dim"] * known["num_attention_heads"]
    return {
        **known,
        "mlp_ratio": next(shapes[each][0] for each in inner if each in shapes) / (2 * width),
        "guidance_embeds": any(name.startswith(told) for name in shapes),
    }


FILE = TransformerFile(
    name="flux2",
    description="Flux.2",
    module="Flux2Transformer2DModel",
    marks=(
        ("double_stream_modulation_img.lin.", "single_blocks.0.linear1."),
        ("double_stream_modulation_img.linear.", "single_transformer_blocks.0.attn.to_qkv_mlp"),
    ),
    fit=_fitted,
    base="black-forest-labs/FLUX.2-klein-4B",
)
FLUX2 = Family(
    name="flux2",
    description="Flux.2",
    pipelines=(
        "Flux2Pipeline",
        "Flux2KleinPipeline",
        "Flux2KleinInpaintPipeline",
    ),
    denoiser="transformer",
    network=Flux2Network,
    text=Flux2Text,
    codec=Flux2Codec,
    module=FILE.module,
    defaults=_defaults,
    solver_arguments=_solver_arguments,
    transformers=(FILE,),
    half="bfloat16",
    inpaint_pipeline="Flux2KleinInpaintPipeline",
    peer=KleinPeer(patch=PATCH, apart=True, shows=True),
)

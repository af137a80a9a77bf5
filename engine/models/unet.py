"""diffusers' ``UNet2DConditionModel`` as a network: what the UNet families have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError
from engine.models.coupled import Coupled
from engine.models.ip_adapter import image_projections, lend_adapters
from engine.models.lora import LentLoras
from engine.models.network import Network
from engine.models.redirected import Redirected
from engine.models.speed.forwards import is_compiled, replaced_forwards
from engine.models.speed.rows import Fours
from engine.models.speed.text_projections import TextProjections
from engine.models.state import dtype_of

if TYPE_CHECKING:
    import torch

    from engine.types import Conditioning

TEXT = "encoder_hidden_states"
TEXT_MASK = "encoder_attention_mask"
"""The UNets' names for embedded prompts (b n d), and for the mask (b n) of those that are padded.
"""
ADDED = ("text_embeds", "time_ids")
"""The conditioning that diffusers' UNets take inside ``added_cond_kwargs``. IP-Adapters' comes as
``image_embeds.0``, ``ip_adapter_masks.0`` and so on, one for each adapter."""
UNET_CONTROLNETS = ("ControlNetModel", "ControlNetUnionModel", "T2IAdapter")
"""Diffusers' classes of networks that steer UNets."""
INTRABLOCK = "down_intrablock_additional_residuals"
"""The UNet's argument for what T2I-Adapters add, a list that it empties."""
MAPS = 32
"""Maps of the first level's width that a UNet's forward holds at once, with a reserve: diffusers'
SDXL holds 16, SD 1.5 26 (all tensors of a forward counted, attention without its scores)."""


class UNetNetwork(Network):
    """A UNet, quickened by what :mod:`engine.models.speed` has for it.

    Args:
        module: diffusers' UNet.
        parity: calls to the bits of diffusers' pipelines, so without products in fours.

    Raises:
        ModelError: it takes neither latents alone nor the inpainting checkpoints' layout.
    """

    def __init__(self, module: Any, *, parity: bool = False) -> None:
        super().__init__(module)
        self.parity = parity
        self._projections = TextProjections(module)
        self._fours = Fours(module)
        self._coupled, self._redirected = Coupled(module), Redirected(module)
        self._lent: Any = None
        self._loras: LentLoras | None = None
        channels = module.config.out_channels
        kinds = {channels: "base", 2 * channels + 1: "inpaint"}
        if module.config.in_channels not in kinds:
            raise ModelError(
                f"the UNet has {module.config.in_channels} input channels; {channels} (text to "
                f"image) or {2 * channels + 1} (inpainting) are supported."
            )
        self.kind = kinds[module.config.in_channels]

    @property
    def unet(self) -> Any:
        """The module, by its kind."""
        return self.module

    @cached_property
    def like_diffusers(self) -> Network:
        return UNetNetwork(self.module, parity=True)

    @property
    def embeds_guidance(self) -> bool:  # type: ignore[override]  # it depends on the checkpoint
        return getattr(self.module.config, "time_cond_proj_dim", None) is not None

    @property
    def couples(self) -> bool:  # type: ignore[override]  # compiled layers keep their forwards
        return not is_compiled(self.module)

    @property
    def redirects(self) -> bool:  # type: ignore[override]  # as above; fused layers have one more way
        return not is_compiled(self.module) and self._redirected.able

    @property
    def down_factor(self) -> int:  # type: ignore[override]  # what the downsampling halves
        return int(2 ** (len(self.module.config.block_out_channels) - 1))

    @property
    def sample_size(self) -> int:
        side = self.module.config.sample_size
        return int(min(side) if isinstance(side, list | tuple) else side)

    @property
    def adapters(self) -> int:  # type: ignore[override]  # adapters come and go
        projections = image_projections(self.module)
        return 0 if projections is None else int(projections.num_ip_adapters)

    def cells_at_hand(self) -> int:
        """On CUDA, what fits into the device's free memory and what torch keeps for itself."""
        import torch

        parameter = next(self.module.parameters())
        if parameter.device.type != "cuda":
            return sys.maxsize
        free, _ = torch.cuda.mem_get_info(parameter.device)
        kept = torch.cuda.memory_reserved(parameter.device)
        free += kept - torch.cuda.memory_allocated(parameter.device)
        width = self.module.config.block_out_channels[0]
        return int(free // (MAPS * width * parameter.element_size()))

    def predict(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        residuals: Mapping[str, Any],
    ) -> torch.Tensor:
        tensors, text = conditioning.tensors, conditioning.text
        added: dict[str, Any] = {key: tensors[key] for key in ADDED if key in tensors}
        if embeds := _numbered(tensors, "image_embeds"):
            added["image_embeds"] = embeds
        masks = _numbered(tensors, "ip_adapter_masks")
        if INTRABLOCK in residuals:
            residuals = {**residuals, INTRABLOCK: list(residuals[INTRABLOCK])}
        with replaced_forwards(self.module, self._changes(sample, text, tensors)):
            prediction: torch.Tensor = self.module(
                sample,
                timesteps,
                encoder_hidden_states=text,
                encoder_attention_mask=tensors.get(TEXT_MASK),
                timestep_cond=tensors.get("timestep_cond"),
                added_cond_kwargs=added or None,
                cross_attention_kwargs={"ip_adapter_masks": masks} if masks else None,
                return_dict=False,
                **residuals,
            )[0]
        return prediction

    def _changes(
        self, sample: torch.Tensor, text: torch.Tensor, tensors: Mapping[str, torch.Tensor]
    ) -> Iterator[tuple[Any, Callable[..., Any]]]:
        """Layers that this call computes in another way."""
        if is_compiled(self.module):
            return
        yield from self._projections.changes(text)
        if not self.parity:
            yield from self._fours.changes(sample)
        yield from self._coupled.changes(tensors)
        yield from self._redirected.changes(tensors)

    def with_guidance(self, conditioning: Conditioning, scale: float) -> Conditioning:
        import torch
        from diffusers import LatentConsistencyModelPipeline

        weights = torch.tensor(scale - 1).repeat(conditioning.rows)
        # It asks nothing of the pipeline that it is a method of.
        embedded: torch.Tensor = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
            self, weights, embedding_dim=self.module.config.time_cond_proj_dim
        )
        return conditioning.adding(
            {"timestep_cond": embedded.to(conditioning.text.device, dtype_of(self.module))}
        )

    def borrow(self, other: Network) -> None:
        self._lent = lend_adapters(other.module, self.module, self._lent)
        if self._loras is None:
            self._loras = LentLoras(other.module, self.module)
        self._loras.follow()

    def check_fits(self, other: Network) -> None:
        ours, theirs = self.module.config, other.module.config
        if other.kind != "inpaint":
            raise ModelError(
                f"the inpainting UNet has {theirs.in_channels} input channels, not "
                f"{2 * theirs.out_channels + 1}."
            )
        if theirs.cross_attention_dim != ours.cross_attention_dim:
            raise ModelError(
                "the inpainting UNet is of another family: it takes text embeddings of "
                f"{theirs.cross_attention_dim} dimensions, the model's have "
                f"{ours.cross_attention_dim}."
            )


def unet_of(added: str | None) -> Callable[[Any], UNetNetwork]:
    """What makes the network of a family whose UNets take ``added`` beside the text, diffusers'
    ``addition_embed_type``; others' are refused.
    """

    def network(module: Any) -> UNetNetwork:
        given = module.config.get("addition_embed_type")
        if given != added:
            raise ModelError(
                f"the UNet is another family's: it takes {given or 'nothing'} beside the text "
                f"(addition_embed_type), where this one's take {added or 'nothing'}."
            )
        return UNetNetwork(module)

    return network


def _numbered(tensors: Mapping[str, torch.Tensor], name: str) -> list[torch.Tensor]:
    """``name.0``, ``name.1``, ... as a list."""
    keys = takewhile(tensors.__contains__, (f"{name}.{i}" for i in count()))
    return [tensors[key] for key in keys]

"""Whole-model speed and memory, by the means of diffusers and torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.models.speed.rows import OneByOne
from engine.registry import Registry

if TYPE_CHECKING:
    from engine.models.backbone import Backbone


@dataclass(frozen=True)
class OptimisationInfo:
    """One thing that can be done to a model, or several under one name."""

    name: str
    description: str
    """What it gives."""
    costs: str = ""
    pixels: str = ""
    """What became of the 8-bit values of a picture: measured with the pocket model in float32 on a
    CPU (8 steps, 128 px), where nothing else is said."""
    apply: Callable[[Backbone], None] | None = None
    includes: tuple[str, ...] = ()
    """Names of the optimisations that it stands for."""


OPTIMISATIONS = Registry("optimisation", OptimisationInfo, "softpaint.optimisations")
"""What can be asked of :meth:`engine.engine.InpaintEngine.optimise`."""


def _channels_last(backbone: Backbone) -> None:
    import torch

    for module in (backbone.pipe.vae, *_unets(backbone)):
        module.to(memory_format=torch.channels_last)


def _fused_qkv(backbone: Backbone) -> None:
    for module in (backbone.pipe.vae, *_unets(backbone)):
        module.fuse_qkv_projections()


def _compile(backbone: Backbone) -> None:
    for unet in _unets(backbone):
        unet.compile_repeated_blocks()


def _vae_tiling(backbone: Backbone) -> None:
    backbone.pipe.vae.enable_tiling()


def _same_bits(backbone: Backbone) -> None:
    backbone.networks = {
        kind: network if isinstance(network, OneByOne) else OneByOne(network)
        for kind, network in backbone.networks.items()
    }


def _cpu_offload(backbone: Backbone) -> None:
    loaded = {id(part) for part in backbone.pipe.components.values()}
    if any(id(unet) not in loaded for unet in _unets(backbone)):
        raise InputError(
            "cpu-offload moves the modules of one pipeline; load the inpainting checkpoint as "
            "model=, without a second network."
        )
    try:
        backbone.pipe.enable_model_cpu_offload()
    except RuntimeError as error:
        raise InputError(f"cpu-offload cannot be had here: {error}") from error


for _info in (
    OptimisationInfo(
        "channels-last",
        "convolutions in the layout that tensor cores (and most CPUs) want",
        "a copy of the weights while they are laid out anew",
        "1 in 10,000 is off by 1",
        _channels_last,
    ),
    OptimisationInfo(
        "fused-qkv",
        "one matrix product in place of three in self-attention",
        "no LoRA or IP-Adapter after it",
        "the same; elsewhere the last bits of a product may differ",
        _fused_qkv,
    ),
    OptimisationInfo(
        "compile",
        "the UNet's transformer blocks compiled by torch, once for all blocks of a kind",
        "a first call of tens of seconds, one more for each new size; a C++ compiler on a CPU",
        "1 in 50,000 is off by 1",
        _compile,
    ),
    OptimisationInfo(
        "vae-tiling",
        "pictures of more than a tile encoded and decoded tile by tile: bounded memory",
        "pictures beyond one tile (the VAE's ``sample_size``) take longer",
        "the same up to one tile; beyond it a tile is normalised by itself: of a picture of two "
        "tiles a side 85% of the repainted values differed, by 4 in the mean and by 110 at most",
        _vae_tiling,
    ),
    OptimisationInfo(
        "same-bits",
        "an edit's bits do not depend on what shares its model calls, on any processor: each row "
        "is a call of its own",
        "what sharing saves",
        "the same but for the last bits",
        _same_bits,
    ),
    OptimisationInfo(
        "cpu-offload",
        "only the module at work is on the GPU",
        "each edit moves the modules; no second network",
        "the same: nothing is computed otherwise (not measured, for want of a GPU)",
        _cpu_offload,
    ),
    OptimisationInfo("speed", "what costs nothing", includes=("channels-last",)),
    OptimisationInfo(
        "max-speed",
        "what is worth its cost in long sessions",
        includes=("channels-last", "fused-qkv", "compile"),
    ),
    OptimisationInfo(
        "memory", "large pictures, small GPUs", includes=("vae-tiling", "cpu-offload")
    ),
):
    OPTIMISATIONS.register(_info)


def optimise(backbone: Backbone, names: Iterable[str]) -> None:
    """Apply options and levels, in order.

    What needs no option: attention is torch's ``scaled_dot_product_attention``, and pictures are
    decoded one at a time, so there is nothing left for VAE slicing. Half precision is the
    ``dtype`` a model is loaded with: on a CPU it is there to save memory, not time (bfloat16 took
    twelve times as long as float32 on a machine without instructions for it; 7% of the values
    differed, by 8 at most; float16 as long, 1.5%, by 3).

    What there is not: reuse of features from step to step (DeepCache and its kind). It changes
    pixels, and nobody keeps it up for UNets: diffusers' own caches want its ``CacheMixin``, which
    ``UNet2DConditionModel`` of 0.42 lacks, cache-dit is for transformers, and the package DeepCache
    has had no release since 2023.

    Raises:
        InputError: an unknown name, or an option that cannot be had here.
    """
    asked = [OPTIMISATIONS.get(name) for name in names]
    wanted = [OPTIMISATIONS.get(name) for info in asked for name in info.includes or (info.name,)]
    for info in dict.fromkeys(wanted):
        if info.apply is not None:
            info.apply(backbone)


def _unets(backbone: Backbone) -> list[Any]:
    return [network.module for network in backbone.networks.values()]

"""What teaching takes of a GPU's memory, counted without one: forward and backward on torch's meta
device, where tensors have sizes and no values.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

from engine.errors import UnknownNameError
from engine.models.family import FAMILIES
from engine.models.formats.assemble import read_config
from engine.tune.layers import checkpointed, taught
from engine.tune.recipe import LAYERS, Recipe

if TYPE_CHECKING:
    import torch

    from engine.models.layout import Layout

HALF, FULL = 2, 4
"""Bytes of a number."""
MOMENTS = {"adamw": 2 * FULL, "adamw8bit": 2 * 1}
"""Bytes that an optimiser keeps of a trained number."""
TOKENS = 77


@dataclass(frozen=True)
class Memory:
    """Bytes by what they hold."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """All of them: the peak of a step."""
        return sum(self.parts.values())


def layouts() -> dict[str, Layout]:
    """The kinds of models whose configs are part of this package, by name."""
    every = (each for family in FAMILIES for each in family.layouts)
    return {each.name: each for each in every if (each.configs / "unet").is_dir()}


def memory_of(name: str, recipe: Recipe, *, inpaint: bool = False) -> Memory:
    """What a step takes that teaches a LoRA: weights and arithmetic in half precision, attention by
    a fused kernel (which keeps no scores), text encoders and VAE at rest on the CPU.

    Args:
        name: of :func:`layouts`.
        recipe: rank, layers, size, batch, optimiser and checkpointing count.
        inpaint: of the 9-channel UNet.

    Raises:
        UnknownNameError: there is no such kind.
    """
    import torch
    from diffusers import UNet2DConditionModel

    known = layouts()
    if name not in known:
        raise UnknownNameError("kind of model", name, known)
    layout = known[name]
    config = read_config(layout.configs, "unet")
    if inpaint:
        config["in_channels"] = 9
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(config).half()
    cells = (recipe.size or config["sample_size"] * 8) // 8
    network = _bytes(unet)
    with (
        taught(unet, rank=recipe.rank, ends=LAYERS[recipe.layers], seed=0) as layers,
        checkpointed(unet, wanted=recipe.checkpointing),
    ):
        trained = sum(each.numel() for each in layers.parameters.values())
        for each in layers.parameters.values():  # under autocast they are used in half precision
            each.data = each.data.half()
        peak = _peak(unet, replace(recipe, size=cells * 8), cells)
    return Memory(
        {
            "the network, half precision": network,
            "the LoRA, float32": trained * FULL,
            "its gradients": trained * FULL,
            f"the optimiser ({recipe.optimiser})": trained * MOMENTS[recipe.optimiser],
            "activations at their peak": peak,
        }
    )


def _bytes(module: Any) -> int:
    return sum(each.numel() * each.element_size() for each in module.parameters())


def _peak(unet: Any, recipe: Recipe, cells: int) -> int:
    """Bytes of all that a forward and a backward make, at their most."""
    import torch

    config = unet.config

    def meta(*shape: int) -> torch.Tensor:
        return torch.empty(recipe.batch, *shape, device="meta", dtype=torch.float16)

    added = None
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": meta(pooled), "time_ids": meta(6)}
    sample = meta(config.in_channels, cells, cells)
    text = meta(TOKENS, config.cross_attention_dim)
    counter = _counter()
    with _fused_attention(), counter:
        answer = unet(sample, meta(), text, added_cond_kwargs=added).sample
        answer.float().square().mean().backward()
    most: int = counter.most
    return most


def _counter() -> Any:
    """A mode in which the bytes of storages that are alive are counted."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Counter(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.alive = self.most = 0
            self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = func(*args, **(kwargs or {}))
            for each in tree_leaves(made):
                if isinstance(each, Tensor):
                    self._see(each.untyped_storage())
            return made

        def _see(self, storage: Any) -> None:
            if storage in self._seen:
                return
            size = storage.nbytes()
            self._seen.add(storage)
            self.alive += size
            self.most = max(self.most, self.alive)
            weakref.finalize(storage, self._forget, size)

        def _forget(self, size: int) -> None:
            self.alive -= size

    return Counter()


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention as a fused kernel keeps it for its backward: queries, keys, values, the result and
    a number for each row (Dao 2023, "FlashAttention-2").
    """
    import torch

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:
            made = q.new_empty(*q.shape[:-1], v.shape[-1])
            ctx.save_for_backward(q, k, v, made, q.new_empty(q.shape[:-1], dtype=torch.float32))
            return made

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            q, k, v, *_others = ctx.saved_tensors
            return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)

    def attend(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return Fused.apply(query, key, value)

    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attend):
        yield

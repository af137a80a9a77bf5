"""What is trained of a model, while it is taught: LoRA layers in a network (peft's, under a
name of their own), or a part itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.models.lora import adapters_of, adding_adapters
from engine.tune.lora_files import Pair

if TYPE_CHECKING:
    import torch

NAME = "softpaint_tuned"


class Weights:
    """The weights of a module that are trained: those that require gradients."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.parameters: dict[str, torch.nn.Parameter] = {
            name: each for name, each in module.named_parameters() if each.requires_grad
        }

    def state(self) -> dict[str, torch.Tensor]:
        """The trained tensors, by name."""
        return {name: each.detach().cpu().clone() for name, each in self.parameters.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Bring the trained tensors to a :meth:`state`."""
        import torch

        with torch.no_grad():
            for name, each in self.parameters.items():
                each.copy_(state[name])


class Taught(Weights):
    """A network with LoRA layers that are trained; all else of it is frozen.

    Args:
        module: the denoiser, with the layers in it.
    """

    @contextmanager
    def absent(self) -> Iterator[None]:
        """Meanwhile the network answers without them."""
        self.module.disable_adapters()
        try:
            yield
        finally:
            self.module.enable_adapters()

    def pairs(self) -> dict[str, Pair]:
        """What was learnt, by module, in float32 on the CPU."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.module, adapter_name=NAME)
        state = {name: each.detach().float().cpu() for name, each in state.items()}
        down, up = ".lora_A.weight", ".lora_B.weight"
        return {
            name.removesuffix(down): Pair(each, state[name.removesuffix(down) + up])
            for name, each in state.items()
            if name.endswith(down)
        }


@contextmanager
def taught(module: Any, *, rank: int, ends: tuple[str, ...], seed: int) -> Iterator[Taught]:
    """``module`` with fresh LoRA layers (Hu et al. 2021: ``up`` is 0, so that it answers as before)
    in float32; afterwards it is what it was.

    Args:
        module: diffusers' denoiser.
        rank: of the layers; their scale is 1.
        ends: how the names end of the layers that get one.
        seed: of ``down``.

    Raises:
        InputError: no layer has such a name.
    """
    import torch
    from peft import LoraConfig

    wanted = [
        name
        for name, each in module.named_modules()
        if isinstance(each, torch.nn.Linear | torch.nn.Conv2d)
        and any(name == end or name.endswith(f".{end}") for end in ends)
    ]
    if not wanted:
        raise InputError(f"{type(module).__name__} has none of the layers that are taught.")
    frozen = [each for each in module.parameters() if each.requires_grad]
    module.requires_grad_(requires_grad=False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=wanted)
    try:
        with torch.random.fork_rng(devices=[]), adding_adapters():
            torch.manual_seed(seed)
            module.add_adapter(config, adapter_name=NAME)
        for name, each in module.named_parameters():
            if f".{NAME}." in name:
                each.data = each.data.float()
                each.requires_grad_(requires_grad=True)
        yield Taught(module)
    finally:
        if NAME in adapters_of(module):
            module.delete_adapters(NAME)
            if not adapters_of(module):
                module.unload_lora()
        for each in frozen:
            each.requires_grad_(requires_grad=True)


@contextmanager
def trained_itself(module: Any, part: str) -> Iterator[Weights]:
    """``module`` in float32, with the weights of its ``part`` to be trained and all else frozen;
    afterwards it is what it was, to the bit.
    """
    import torch

    dtype, training = next(module.parameters()).dtype, module.training
    asked = [(each, each.requires_grad) for each in module.parameters()]
    before = {
        name: each.detach().clone() for name, each in getattr(module, part).named_parameters()
    }
    module.requires_grad_(requires_grad=False)
    cast(module, torch.float32)
    getattr(module, part).requires_grad_(requires_grad=True)
    try:
        yield Weights(module)
    finally:
        cast(module, dtype)
        with torch.no_grad():
            for name, each in getattr(module, part).named_parameters():
                each.copy_(before[name])
        for each, wanted in asked:
            each.requires_grad_(requires_grad=wanted)
        module.train(training)


def cast(module: Any, dtype: torch.dtype) -> None:
    """Bring a module's weights to ``dtype``, without what diffusers' ``to`` says to it."""
    for each in module.parameters():
        each.data = each.data.to(dtype)


@contextmanager
def checkpointed(module: Any, *, wanted: bool) -> Iterator[None]:
    """Meanwhile activations are computed twice and fewer are kept, if ``wanted``."""
    if not wanted or module.is_gradient_checkpointing:
        yield
        return
    module.enable_gradient_checkpointing()
    try:
        yield
    finally:
        module.disable_gradient_checkpointing()


@contextmanager
def at_rest(pipe: Any, denoiser: str) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Meanwhile a pipeline's other networks than its ``denoiser`` wait in the CPU's memory; inside
    a call of what this gives they are back.
    """
    import torch

    device = next(getattr(pipe, denoiser).parameters()).device
    parts = {
        name: part
        for name, part in pipe.components.items()
        if name != denoiser and isinstance(part, torch.nn.Module) and not hasattr(part, "_hf_hook")
    }

    def move(where: Any) -> None:
        for part in parts.values():
            part.to(where)

    @contextmanager
    def awake() -> Iterator[None]:
        move(device)
        try:
            yield
        finally:
            move("cpu")

    move("cpu")
    try:
        yield awake
    finally:
        move(device)

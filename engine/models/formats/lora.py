"""LoRA files: kohya's and diffusers' names, LoCon, LoHa, LoKr and DoRA, as what peft loads.

Whatever a file calls its modules and however it factors their change, here it becomes a pair of
matrices for each module (Hu et al. 2021, "LoRA"): ``W + up @ down``. LoHa and LoKr
(Yeh et al. 2024, "Navigating text-to-image customization", LyCORIS) are such pairs of a higher
rank, and exactly so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError
from engine.models.formats.original_names import original_names

if TYPE_CHECKING:
    import torch

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
_PREFIXES: Mapping[str, str] = {
    "lora_unet_": "unet",
    "lycoris_unet_": "unet",
    "unet_": "unet",
    "model_diffusion_model_": "unet",
    "diffusion_model_": "unet",
    "lora_te2_": "text_encoder_2",
    "text_encoder_2_": "text_encoder_2",
    "lora_te1_": "text_encoder",
    "lora_te_": "text_encoder",
    "lycoris_te_": "text_encoder",
    "text_encoder_": "text_encoder",
    "lycoris_": "unet",
}
"""How files name the parts of a model, longer ones first where one begins another."""
_PARTS: Mapping[str, str] = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "dora_scale": "magnitude",
    "alpha": "alpha",
    "diff": "diff",
    **{
        name: name
        for name in (
            *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
            *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        )
    },
}
"""The ends of keys, and what the tensor is."""
_OLD = re.compile(r"\.processor\.(to_q|to_k|to_v|to_out)_lora\.")
"""Of diffusers' first LoRAs."""


@dataclass(frozen=True)
class Low:
    """A module's change in two factors: ``up @ down``, with its scale in ``up``."""

    down: torch.Tensor
    """r in, or r in k k of a convolution."""
    up: torch.Tensor
    """out r, or out r 1 1."""
    magnitude: torch.Tensor | None = None
    """out: what DoRA (Liu et al. 2024) makes the norms of the changed weight's rows."""

    @property
    def delta(self) -> torch.Tensor:
        """The change as one matrix, out n."""
        return self.up.flatten(1).float() @ self.down.flatten(1).float()


def read_lora(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, str]]:
    """The tensors of a LoRA file by module and part, and the file's metadata.

    Raises:
        ModelError: it cannot be read, or is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable .safetensors file: {error}") from error
    modules: dict[str, dict[str, torch.Tensor]] = {}
    strange: list[str] = []
    for key, tensor in tensors.items():
        module, part = _parted(_OLD.sub(lambda found: f".{_whole(found[1])}.lora.", key))
        if part:
            modules.setdefault(module, {})[part] = tensor
        else:
            strange.append(key)
    if any(".oft_" in key or key.startswith("oft_") for key in tensors):
        raise ModelError(
            f"{path} is an OFT, a kind of adapter that nothing here applies; LoRA, LoCon, LoHa, "
            "LoKr and DoRA are."
        )
    if not any(_kind(parts) for parts in modules.values()):
        raise ModelError(f"{path} is no LoRA: it holds {_some(tensors)}.")
    return modules, metadata


def _whole(name: str) -> str:
    return "to_out.0" if name == "to_out" else name


def _parted(key: str) -> tuple[str, str]:
    """A key's module, its dots and underscores all underscores, and what part of it this is."""
    for end, part in _PARTS.items():
        if key.endswith(f".{end}"):
            return key.removesuffix(f".{end}").replace(".", "_"), part
    return key, ""


def _some(keys: Any) -> str:
    listed = sorted(keys)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "") or "nothing"


# --- factors -------------------------------------------------------------------------------------


def _kind(parts: Mapping[str, Any]) -> Callable[[Mapping[str, torch.Tensor]], Low] | None:
    if {"down", "up"} <= parts.keys():
        return _lora
    if {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= parts.keys():
        return _loha
    if {"lokr_w1", "lokr_w1_a"} & parts.keys() and {"lokr_w2", "lokr_w2_a"} & parts.keys():
        return _lokr
    return _full if "diff" in parts else None


def _scaled(parts: Mapping[str, torch.Tensor], rank: int) -> float:
    """Alpha over rank: 1 where no alpha is given."""
    return float(parts["alpha"]) / rank if "alpha" in parts else 1.0


def _lora(parts: Mapping[str, torch.Tensor]) -> Low:
    import torch

    down, up = parts["down"].float(), parts["up"].float()
    scale = _scaled(parts, down.shape[0])
    if "mid" in parts:  # a Tucker decomposition of a convolution: the core goes into one factor
        mid = parts["mid"].float()
        down = torch.einsum("rshw,si->rihw", mid, down.flatten(1))
    return Low(down, up * scale)


def _loha(parts: Mapping[str, torch.Tensor]) -> Low:
    """``(a1 b1) * (a2 b2)``, elementwise: the rows of b1 times those of b2, each with each, and
    the columns of a1 times those of a2.
    """
    import torch

    first, below = parts["hada_w1_a"].float(), parts["hada_w1_b"].float()
    second, under = parts["hada_w2_a"].float(), parts["hada_w2_b"].float()
    scale = _scaled(parts, below.shape[0])
    if "hada_t1" in parts:
        one, two = (
            torch.einsum("rshw,si,ro->oihw", parts[core].float(), b, a)
            for core, a, b in (("hada_t1", first, below), ("hada_t2", second, under))
        )
        return _whole_change(one * two * scale)
    rank, size, out = below.shape[0], below.shape[1], first.shape[0]
    if rank * under.shape[0] >= min(size, out):
        return _whole_change((first @ below) * (second @ under) * scale)
    down = (below[:, None] * under[None]).reshape(-1, size)
    up = (first[:, :, None] * second[:, None]).reshape(out, -1)
    return Low(down, up * scale)


def _lokr(parts: Mapping[str, torch.Tensor]) -> Low:
    """``kron(w1, w2)``, each of which may be factored itself."""
    import torch

    rank = next((parts[k].shape[0] for k in ("lokr_w1_b", "lokr_w2_b") if k in parts), 0)
    scale = _scaled(parts, rank) if rank else 1.0
    left = _factor(parts, "lokr_w1")
    if "lokr_w2_b" in parts and parts["lokr_w2_b"].dim() == 2 and "lokr_t2" not in parts:
        # kron(w1, a b) = kron(w1, a) kron(1, b)
        a, b = parts["lokr_w2_a"].float(), parts["lokr_w2_b"].float()
        rows, columns = left.shape
        if columns * rank < min(rows * a.shape[0], columns * b.shape[1]):
            return Low(torch.kron(torch.eye(columns), b), torch.kron(left, a) * scale)
    if "lokr_t2" in parts:
        core = parts["lokr_t2"].float()
        a, b = parts["lokr_w2_a"].float(), parts["lokr_w2_b"].float()
        right = torch.einsum("rshw,si,ro->oihw", core, b, a)
    else:
        right = _factor(parts, "lokr_w2")
    while left.dim() < right.dim():
        left = left[..., None]
    return _whole_change(torch.kron(left, right) * scale)


def _factor(parts: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name in parts:
        return parts[name].float()
    a, b = parts[f"{name}_a"].float(), parts[f"{name}_b"].float()
    if b.dim() > 2:
        return (a @ b.flatten(1)).reshape(a.shape[0], *b.shape[1:])
    return a @ b


def _full(parts: Mapping[str, torch.Tensor]) -> Low:
    return _whole_change(parts["diff"].float())


def _whole_change(delta: torch.Tensor) -> Low:
    """A change (out in, or out in k k) of any rank: one of the factors is the identity."""
    import torch

    out, size = delta.shape[0], delta[0].numel()
    ends = (1,) * (delta.dim() - 2)
    if out <= size:
        return Low(delta, torch.eye(out).reshape(out, out, *ends))
    return Low(torch.eye(size).reshape(size, *delta.shape[1:]), delta.reshape(out, size, *ends))


# --- modules -------------------------------------------------------------------------------------


def matched(
    modules: Mapping[str, Mapping[str, torch.Tensor]],
    metadata: Mapping[str, str],
    components: Mapping[str, Any],
    path: Path,
) -> tuple[dict[str, dict[str, Low]], list[str]]:
    """The changes by component and module, and the file's names that fit nothing here.

    Raises:
        ModelError: nothing fits, or a change has another shape than its module.
    """
    known = {name: _flat_names(name, part) for name, part in components.items()}
    alphas = _alphas(metadata)
    found: dict[str, dict[str, Low]] = {}
    left = []
    for name, parts in modules.items():
        component, flat = _component(name)
        target = known.get(component, {}).get(flat)
        make = _kind(parts)
        if target is None or make is None:
            left.append(name)
            continue
        low = make(parts)
        if component in alphas and "alpha" not in parts:
            low = Low(low.down, low.up * alphas[component](target, low.down.shape[0]))
        module = components[component].get_submodule(target)
        low = _fitting(low, parts.get("magnitude"), module, f"{path}'s {target}")
        found.setdefault(component, {})[target] = low
    if not found:
        raise ModelError(
            f"{path} is a LoRA of another family: none of its modules is in this model "
            f"({_some(modules)})."
        )
    return found, left


def _component(name: str) -> tuple[str, str]:
    for prefix, component in _PREFIXES.items():
        if name.startswith(prefix):
            return component, name.removeprefix(prefix)
    return "unet", name


def _flat_names(component: str, part: Any) -> dict[str, str]:
    """The names that files give a component's modules -> the modules' own."""
    from torch import nn

    plain = {_base(n): n for n, m in part.named_modules() if isinstance(_inside(m), _kinds(nn))}
    names = {name.replace(".", "_"): name for name in plain}
    if component == "unet":
        everything = {_base(name) for name, _ in part.named_modules()}
        originals = original_names(everything, part.config.layers_per_block)
        names |= {o.replace(".", "_"): n for n, o in originals.items() if n in plain}
    else:  # transformers 5 has no text_model before a CLIP's layers, files do
        bare = {n.removeprefix("text_model_"): name for n, name in names.items()}
        names |= bare | {f"text_model_{n}": name for n, name in bare.items()}
    return names


def _kinds(nn: Any) -> tuple[type, ...]:
    return nn.Linear, nn.Conv2d


def _base(name: str) -> str:
    """A module's name without what peft puts around it."""
    return name.replace(".base_layer", "")


def _inside(module: Any) -> Any:
    return getattr(module, "base_layer", module)


def _alphas(metadata: Mapping[str, str]) -> dict[str, Callable[[str, int], float]]:
    """The scales that diffusers' files hold beside their tensors, by component."""
    try:
        table = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return {}

    def scale_of(component: str) -> Callable[[str, int], float]:
        alpha = table[f"{component}.lora_alpha"]
        own = table.get(f"{component}.alpha_pattern") or {}
        return lambda module, rank: float(own.get(module, alpha)) / rank

    return {each: scale_of(each) for each in COMPONENTS if f"{each}.lora_alpha" in table}


def _fitting(low: Low, magnitude: torch.Tensor | None, module: Any, what: str) -> Low:
    """``low`` in the shape of the module's weight, with the DoRA's row norms.

    Raises:
        ModelError: it is for another shape, or a DoRA along inputs.
    """
    weight = _inside(module).weight
    down, up = low.down, low.up
    if weight.dim() == 2:
        down, up = down.flatten(1), up.flatten(1)
    elif down.dim() == 2 and weight.shape[2:].numel() == 1:
        down, up = down[..., None, None], up[..., None, None]
    elif down.dim() == 2 and down.shape[1] == weight[0].numel():
        down, up = down.reshape(-1, *weight.shape[1:]), up[..., None, None]
    if down.shape[1:] != weight.shape[1:] or up.shape[0] != weight.shape[0]:
        raise ModelError(
            f"{what} is for a weight of {_sizes(up.shape[:1] + down.shape[1:])}, this model's has "
            f"{_sizes(weight.shape)}: the LoRA is of another family."
        )
    if magnitude is not None:
        if magnitude.numel() != weight.shape[0]:
            raise ModelError(
                f"{what} is a DoRA along the inputs ({_sizes(magnitude.shape)}), which nothing "
                "here can apply; DoRA along the outputs is what most trainers write."
            )
        magnitude = magnitude.flatten().float()
    return Low(down, up, magnitude)


def _sizes(shape: Any) -> str:
    return " x ".join(map(str, shape))


# --- into a model --------------------------------------------------------------------------------


def state_dict_of(component: Any, changes: Mapping[str, Low], dtype: Any) -> dict[str, Any]:
    """The changes of a component's modules as peft names them."""
    decomposed = any(low.magnitude is not None for low in changes.values())
    state: dict[str, Any] = {}
    for module, low in changes.items():
        state[f"{module}.lora_A.weight"] = low.down.to(dtype).contiguous()
        state[f"{module}.lora_B.weight"] = low.up.to(dtype).contiguous()
        if decomposed:
            weight = _inside(component.get_submodule(module)).weight
            norms = low.magnitude
            if norms is None:  # a plain LoRA among them: the norms that it has anyway
                norms = (weight.detach().float().cpu().flatten(1) + low.delta).norm(dim=1)
            if weight.dim() == 4:
                norms = norms.reshape(1, -1, 1, 1)
            state[f"{module}.lora_magnitude_vector"] = norms.to(dtype)
    return state

"""T2I-Adapters in one file: diffusers' names, or the authors' (TencentARC's T2I-Adapter)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import ModelError

DEPTH = 2
"""Blocks of a level in the authors' full adapters, which number them through."""
XL = 16
"""Pixels of a side of SDXL's finest features; SD's have 8. The weights of both have one form."""
_BLOCK = re.compile(r"body\.(\d+)\.(block[12]\..*)")
_LIGHT = re.compile(r"body\.(\d+)\.body\.(\d+)\.(.*)")


def t2i_adapter_of(weights: Mapping[str, Any], path: Path) -> Any:
    """The adapter whose ``weights`` these are; their shapes tell its form.

    Raises:
        ModelError: they are not whole.
    """
    from diffusers import T2IAdapter

    state = _converted({name.removeprefix("adapter."): each for name, each in weights.items()})
    try:
        net: Any = T2IAdapter(**_config_of(state))
        net.load_state_dict({f"adapter.{name}": each for name, each in state.items()})
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path} is a T2I-Adapter of an unknown form, or not whole: {str(error)[:200]}"
        ) from error
    return net


def _converted(state: Mapping[str, Any]) -> dict[str, Any]:
    """By diffusers' names, as its ``scripts/convert_original_t2i_adapter.py`` has them."""
    light = any(name.endswith(".out_conv.weight") for name in state)
    ours = any(".resnets." in name for name in state)
    return {name if ours else _renamed(name, light=light): each for name, each in state.items()}


def _renamed(name: str, *, light: bool) -> str:
    if light:
        return _LIGHT.sub(r"body.\1.resnets.\2.\3", name)
    found = _BLOCK.fullmatch(name)
    if found is None:
        # What widens a level stands at its first block.
        return re.sub(
            r"body\.(\d+)\.in_conv", lambda place: f"body.{int(place[1]) // DEPTH}.in_conv", name
        )
    level, place = divmod(int(found[1]), DEPTH)
    return f"body.{level}.resnets.{place}.{found[2]}"


def _config_of(state: Mapping[str, Any]) -> dict[str, Any]:
    light = "body.0.out_conv.weight" in state
    levels = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("body."))
    blocks = {name.split(".")[3] for name in state if name.startswith("body.0.resnets.")}
    first = state["body.0.in_conv.weight" if light else "conv_in.weight"].shape[1]
    # Squares of 8 or 16 pixels, of one channel or three.
    inputs, factor = next(
        ((count, side) for side in (XL, 8) for count in (3, 1) if count * side**2 == first), (0, 0)
    )
    if not inputs:
        raise ValueError(f"its first layer reads {first} channels")
    ends = (
        [f"body.{level}.out_conv.weight" for level in range(levels - 1)]
        if light
        else [f"body.{level}.resnets.0.block1.weight" for level in range(levels)]
    )
    kind = "light_adapter" if light else "full_adapter_xl" if factor == XL else "full_adapter"
    return {
        "in_channels": inputs,
        "channels": [state[name].shape[0] for name in ends],
        "num_res_blocks": len(blocks),
        "downscale_factor": factor,
        "adapter_type": kind,
    }

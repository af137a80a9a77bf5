"""Tiny real ControlNets with random weights, for :mod:`tiny`'s UNets."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetUnionModel


def _made(kind: Any, unet: Any, seed: int, **changes: Any) -> Any:
    """Zero convolutions have to be anything but zero here."""
    torch.manual_seed(seed)
    config = ControlNetModel.from_unet(unet, load_weights_from_unet=False).config
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    small = {"in_channels": 4, "conditioning_embedding_out_channels": (8, 8, 8, 8)}
    net = kind.from_config({**known, **small, **changes})
    for name, parameter in net.named_parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1 if "bias" in name else 0.05)
    return net.eval()


def controlnet(unet: Any, seed: int = 1, **changes: Any) -> Any:
    return _made(ControlNetModel, unet, seed, **changes)


def union(unet: Any, seed: int = 2) -> Any:
    width = unet.config.block_out_channels[0]
    sizes = {"num_trans_channel": width, "num_proj_channel": width, "num_trans_head": 2}
    return _made(ControlNetUnionModel, unet, seed, num_control_type=8, **sizes)

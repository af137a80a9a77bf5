"""ControlNets: folders, hub ids, single files in diffusers' or the original layout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engine.errors import ModelError
from engine.models.checkpoints import find_checkpoint
from engine.models.formats.sources import config_file, guarded, locate

STEM = "controlnet_cond_embedding."


def load_controlnet(model: str | os.PathLike[str], unet: Any, dtype: Any, device: Any) -> Any:
    """A ControlNet or ControlNet-Union for models with this ``unet``.

    ``model``: a folder, a hub id, a ``.safetensors`` file in diffusers' or the original layout, or
    ``MODEL:CONTROL`` (a known model's own, such as ``pocket:canny``).

    Raises:
        ModelError: there is none, it cannot be read, or a file does not fit the ``unet``.
    """
    from diffusers import ControlNetModel, ControlNetUnionModel

    source: Path | str
    owner, _, name = str(model).partition(":")
    if name and (checkpoint := find_checkpoint(owner)) is not None:
        known = checkpoint.controlnets or {}
        if name not in known:
            raise ModelError(
                f"this version carries no {name!r} ControlNet for the {owner} model; it has "
                f"{', '.join(known) or 'none'}."
            )
        source = known[name]
    else:
        source = locate(model, index="config.json")
    if isinstance(source, Path) and source.is_file():
        net = _single_controlnet(source, unet)
    else:
        config = guarded(lambda: config_file(source).read_text(encoding="utf-8"), model)
        union = "Union" in config  # in the name of the class
        kind = ControlNetUnionModel if union else ControlNetModel
        net = guarded(lambda: kind.from_pretrained(str(source), dtype=dtype), model)
    net = net.to(device).eval()
    return net if net.dtype == dtype else net.to(dtype)


def _single_controlnet(path: Path, unet: Any) -> Any:
    """A ControlNet from one file. It holds no configuration: the UNet's tells the levels, the
    weights' own shapes the rest.
    """
    from diffusers import ControlNetModel, ControlNetUnionModel
    from diffusers.configuration_utils import FrozenDict
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable .safetensors file: {error}") from error
    kind = ControlNetUnionModel if "task_embedding" in weights else ControlNetModel
    # An IP-Adapter in the UNet is noted in its configuration; ControlNets have no part in it.
    config = FrozenDict({**unet.config, "encoder_hid_dim_type": None, "encoder_hid_dim": None})
    template = kind.from_unet(SimpleNamespace(config=config), load_weights_from_unet=False)
    if kind is ControlNetModel:
        weights = convert_controlnet_checkpoint(weights, template.config)
    if not any(key.startswith(STEM) for key in weights):
        raise ModelError(f"{path} is no ControlNet.")
    width = next((w.shape[1] for key, w in weights.items() if "attn2.to_k.weight" in key), None)
    if width != unet.config.cross_attention_dim:
        raise ModelError(
            f"{path} is a ControlNet of another family: it takes text embeddings of {width} "
            f"dimensions, the model's have {unet.config.cross_attention_dim}."
        )
    # Not the private entries: one of them lists what a default is to replace.
    known = {key: value for key, value in template.config.items() if not key.startswith("_")}
    net = kind.from_config({**known, **_config_of(weights)})
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{path} does not fit this model's UNet; if it is a ControlNet with other levels "
            "(a small one), give its folder, which holds its configuration."
        ) from error
    return net


def _config_of(weights: Mapping[str, Any]) -> dict[str, Any]:
    """What the shapes of a ControlNet's ``weights`` say of its configuration."""
    blocks = [key for key in weights if key.startswith(f"{STEM}blocks.") and "weight" in key]
    steps = [f"{STEM}blocks.{number}.weight" for number in range(1, len(blocks), 2)]
    first = weights[f"{STEM}conv_in.weight"]
    config: dict[str, Any] = {
        "in_channels": weights["conv_in.weight"].shape[1],
        "conditioning_channels": first.shape[1],
        "conditioning_embedding_out_channels": [
            first.shape[0],
            *(weights[key].shape[0] for key in steps),
        ],
    }
    if "task_embedding" in weights:  # ControlNet-Union
        config["num_control_type"], config["num_trans_channel"] = weights["task_embedding"].shape
        config["num_proj_channel"] = weights["spatial_ch_projs.weight"].shape[0]
    return config

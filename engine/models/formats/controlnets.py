"""ControlNets and T2I-Adapters: folders, hub ids, files in diffusers' or the original layout."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engine.errors import ModelError
from engine.models.checkpoints import find_checkpoint
from engine.models.formats.kinds import KINDS, T2I_ADAPTER, Kind, kind_of
from engine.models.formats.sources import config_file, guarded, locate
from engine.models.formats.t2i_adapters import t2i_adapter_of
from engine.models.formats.variants import variant_of
from engine.models.header import read_header

STEM = "controlnet_cond_embedding."
NEEDED = "a ControlNet, ControlNet-Union or T2I-Adapter is needed"
_OTHERS: tuple[Kind, ...] = (
    Kind(
        "a Control-LoRA (Stability's ControlNet of low rank)",
        lambda header: "lora_controlnet" in header,
        "a whole ControlNet of the same control image does its work",
    ),
    Kind(
        "a ControlNet as a difference to one base model",
        lambda header: "difference" in header,
        "extracted again as a whole one it can be used",
    ),
    Kind("a ControlLLLite (kohya's)", lambda header: header.has("lllite_")),
    Kind(
        "a ControlNet-XS",
        lambda header: (
            header.has("control_model.control_model.", "ctrl_to_base", "base_to_ctrl")
            or any(".ctrl_" in name or ".base_to_ctrl" in name for name in header.shapes)
        ),
    ),
    *(each for each in KINDS if each.what not in {"a ControlNet", "a T2I-Adapter", "a VAE"}),
)
"""Files that are no ControlNet, or that would not act as one, by what they are."""


def load_controlnet(
    model: str | os.PathLike[str], unet: Any, dtype: Any, device: Any, classes: Collection[str]
) -> Any:
    """A ControlNet, ControlNet-Union or T2I-Adapter for models with this ``unet``.

    ``model``: a folder, a hub id, a ``.safetensors`` file in diffusers' or the original layout (of
    UNets'), or ``MODEL:CONTROL`` (a known model's own, such as ``pocket:canny``). ``classes``:
    diffusers' of the family's.

    Raises:
        ModelError: there is none, it cannot be read, or a file does not fit the ``unet``.
    """
    import diffusers

    if not classes:
        raise ModelError(f"{model}: models of this family take no ControlNets here.")
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
        if not hasattr(unet.config, "cross_attention_dim"):
            raise ModelError(f"{source} is a file: give the folder of a ControlNet for this model.")
        net = _single_controlnet(source, unet)
    else:
        config = guarded(lambda: config_file(source).read_text(encoding="utf-8"), model)
        named = json.loads(config).get("_class_name", "ControlNetModel")
        if named not in classes:
            needed = NEEDED if "ControlNetModel" in classes else f"{' or '.join(classes)} is needed"
            raise ModelError(f"{model} is a {named}, which nothing here runs: {needed}.")
        kind = getattr(diffusers, named)
        settings = {"dtype": dtype, **variant_of(source, "*")}
        net = guarded(lambda: kind.from_pretrained(str(source), **settings), model)
    net = net.to(device).eval()
    return net if net.dtype == dtype else net.to(dtype)


def _single_controlnet(path: Path, unet: Any) -> Any:
    """A ControlNet or T2I-Adapter from one file. It holds no configuration: the UNet's tells the
    levels, the weights' own shapes the rest.
    """
    from diffusers import ControlNetModel, ControlNetUnionModel
    from diffusers.configuration_utils import FrozenDict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = read_header(path)
    if (other := kind_of(header, _OTHERS)) is not None:
        why = f": {other.use}" if other.use else ""
        raise ModelError(f"{path} is {other.what}, and {NEEDED}{why}.")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable .safetensors file: {error}") from error
    if T2I_ADAPTER.marks(header):
        return t2i_adapter_of(weights, path)
    kind = ControlNetUnionModel if "task_embedding" in weights else ControlNetModel
    # An IP-Adapter in the UNet is noted in its configuration; ControlNets have no part in it.
    config = FrozenDict({**unet.config, "encoder_hid_dim_type": None, "encoder_hid_dim": None})
    template = kind.from_unet(SimpleNamespace(config=config), load_weights_from_unet=False)
    if kind is ControlNetModel:
        weights = _converted(weights, template.config)
    if not any(key.startswith(STEM) for key in weights):
        raise ModelError(f"{path} is no ControlNet.")
    width = next((w.shape[1] for key, w in weights.items() if "attn2.to_k.weight" in key), None)
    if width not in {None, unet.config.cross_attention_dim}:  # small ones attend to no text
        raise ModelError(
            f"{path} is a ControlNet of another family: it takes text embeddings of {width} "
            f"dimensions, the model's have {unet.config.cross_attention_dim}."
        )
    # Not the private entries: one of them lists what a default is to replace.
    known = {key: value for key, value in template.config.items() if not key.startswith("_")}
    own = _config_of(weights)
    if kind is ControlNetModel:
        own |= _levels_of(weights, len(known["block_out_channels"]))
    net = kind.from_config({**known, **own})
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{path} does not fit this model's UNet, whose levels and widths it should have; if it "
            "does, its folder may tell more, which holds its configuration."
        ) from error
    return net


def _converted(weights: dict[str, Any], config: Any) -> dict[str, Any]:
    """Weights by diffusers' names, whose own conversion forgets SDXL's added embedding."""
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    converted: dict[str, Any] = convert_controlnet_checkpoint(weights, config)
    for original, name in (("label_emb.0.0", "linear_1"), ("label_emb.0.2", "linear_2")):
        for prefix in ("", "control_model."):
            for part in ("weight", "bias"):
                if (found := weights.get(f"{prefix}{original}.{part}")) is not None:
                    converted[f"add_embedding.{name}.{part}"] = found
    return converted


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


def _levels_of(weights: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Which of ``count`` levels attend to the text, and in how many layers: small ControlNets (for
    SDXL: diffusers' -mid and -small) leave most of it out.
    """

    def depth(block: str) -> int:
        begin = f"{block}.attentions.0.transformer_blocks."
        layers = {key.removeprefix(begin).split(".")[0] for key in weights if key.startswith(begin)}
        return len(layers)

    depths = [depth(f"down_blocks.{level}") for level in range(count)]
    middle = depth("mid_block")
    names = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
    return {
        "down_block_types": [names[bool(each)] for each in depths],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        # The middle has as many as the last level.
        "transformer_layers_per_block": [
            *(each or 1 for each in depths[:-1]),
            middle or depths[-1] or 1,
        ],
    }

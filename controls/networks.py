"""The networks of controls: found, loaded, and checked against the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.errors import InputError, ModelError

if TYPE_CHECKING:
    from controls.control import Control
    from controls.place import SteeredModel

_FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
"""Text embedding width -> the family that has it."""

_NAMES = {"sd2": "SD 2.x"}
_OTHERS = {"ControlNetXSAdapter", "T2IAdapter", "MultiAdapter", "MultiControlNetModel"}
"""diffusers' classes that steer in other ways."""


def network_of(control: Control, model: SteeredModel) -> Any:
    """The control's network, loaded if need be, and checked against the model."""
    source = control.model
    if control.info is not None:
        base = _base_of(model)
        source = control.info.models.get(base)
        if model.checkpoint is not None and model.checkpoint.controlnets is not None:
            base = model.checkpoint.name
            source = model.checkpoint.controlnets.get(control.info.name)
        if source is None:
            raise InputError(
                f"no ControlNet for {_NAMES.get(base, base)} models is known by the name "
                f"{control.label!r}; give "
                "your own in its place: Control('path or hub id', image=...)."
            )
    net = source
    if isinstance(source, str) or hasattr(source, "__fspath__"):
        net = model.controlnet(source)
    elif type(net).__name__ in _OTHERS or not hasattr(net, "controlnet_cond_embedding"):
        raise InputError(
            f"{control}: a ControlNet is needed (a name, a folder, a hub id, a file, a "
            f"diffusers ControlNetModel or ControlNetUnionModel), not {type(net).__name__}."
        )
    _check_fit(control, net, model)
    return net


def _base_of(model: SteeredModel) -> str:
    """The base model of a control's published networks: SD 2.x is a family with SD 1.x, and its
    text embeddings are wider.
    """
    wide = model.family.name == "sd" and model.unet_config.cross_attention_dim == 1024
    return "sd2" if wide else model.family.name


def _check_fit(control: Control, net: Any, model: SteeredModel) -> None:
    """Raise ``ModelError`` unless the network was made for models like this one."""
    ours, theirs = model.unet_config, net.config
    width, needed = ours.cross_attention_dim, theirs.cross_attention_dim
    if width != needed:
        raise ModelError(
            f"{control} is of another family: it takes text embeddings of {_width(needed)} "
            f"dimensions, the model's have {_width(width)}."
        )
    stride = 2 ** (len(theirs.conditioning_embedding_out_channels) - 1)
    for what, own, other in (
        ("channels per level", ours.block_out_channels, theirs.block_out_channels),
        ("layers per level", ours.layers_per_block, theirs.layers_per_block),
        ("added conditioning", ours.addition_embed_type, theirs.addition_embed_type),
        ("latent channels", ours.out_channels, theirs.in_channels),
        ("control image channels", 3, theirs.conditioning_channels),
        ("pixels per latent", model.cell, stride),
    ):
        if _plain(own) != _plain(other):
            raise ModelError(
                f"{control} does not fit the model: its {what} are {_plain(other)}, "
                f"{_plain(own)} are needed."
            )
    where = next(net.parameters()).device
    if where.type != model.device.type and not hasattr(net, "_hf_hook"):
        raise ModelError(
            f"{control} is on {where.type}, the model on {model.device.type}; "
            f"move it there: controlnet.to({str(model.device)!r})."
        )


def _width(dimensions: Any) -> str:
    family = _FAMILIES.get(dimensions) if isinstance(dimensions, int) else None
    return f"{dimensions} ({family})" if family else f"{dimensions}"


def _plain(value: Any) -> Any:
    """Configs hold the same values as lists and as tuples."""
    return tuple(value) if isinstance(value, list) else value

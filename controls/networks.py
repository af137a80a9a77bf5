"""The networks of controls: found, loaded, and checked against the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controls.bound import BoundControl, BoundUnion
from controls.flux import MODES, BoundFlux
from controls.t2i import BoundAdapter, features_of, places_of
from engine.errors import InputError, ModelError

if TYPE_CHECKING:
    from controls.control import Control
    from controls.place import SteeredModel

_FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
"""Text embedding width -> the family that has it."""

_ADAPTERS = {8.0: "SD 1.x", 16.0: "SDXL"}
"""Pixels of a T2I-Adapter's finest features -> the family."""
_NAMES = {"sd2": "SD 2.x"}


@dataclass(frozen=True)
class NetKind:
    """A class of diffusers' ControlNets, as the engine runs it."""

    bound: type[BoundControl]
    check: Callable[[Control, Any, SteeredModel], None]
    """Raises ``ModelError`` unless a network was made for models like this one."""
    counts: str = ""
    """What in its config says how many kinds of control images it tells apart, where it does."""
    modes: Mapping[str, int] | None = None
    """Their numbers by the controls' names; None is those in the registry."""
    fuses: bool = False
    """Several control images go into one forward."""


def kind_of(net: Any) -> NetKind:
    """How a ControlNet of a known class is run."""
    return KINDS[type(net).__name__]


def network_of(control: Control, model: SteeredModel) -> Any:
    """The control's network, loaded if need be, and checked against the model."""
    known = [name for name in model.family.controlnets if name in KINDS]
    if not known:
        raise InputError(f"{control}: {model.family.description} takes no ControlNets here.")
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
    if type(net).__name__ not in known:
        raise InputError(
            f"{control}: a ControlNet is needed (a name, a folder, a hub id, a file, a diffusers "
            f"{' or '.join(known)}), not {type(net).__name__}."
        )
    kind_of(net).check(control, net, model)
    where = next(net.parameters()).device
    if where.type != model.device.type and not hasattr(net, "_hf_hook"):
        raise ModelError(
            f"{control} is on {where.type}, the model on {model.device.type}; "
            f"move it there: controlnet.to({str(model.device)!r})."
        )
    return net


def _base_of(model: SteeredModel) -> str:
    """The base model of a control's published networks: SD 2.x is a family with SD 1.x, and its
    text embeddings are wider.
    """
    wide = model.family.name == "sd" and model.unet_config.cross_attention_dim == 1024
    return "sd2" if wide else model.family.name


def _check_unet(control: Control, net: Any, model: SteeredModel) -> None:
    """Of a UNet's networks."""
    ours, theirs = model.unet_config, net.config
    width, needed = ours.cross_attention_dim, theirs.cross_attention_dim
    if width != needed:
        raise ModelError(
            f"{control} is of another family: it takes text embeddings of {_width(needed)} "
            f"dimensions, the model's have {_width(width)}."
        )
    stride = 2 ** (len(theirs.conditioning_embedding_out_channels) - 1)
    _check_alike(
        control,
        ("channels per level", ours.block_out_channels, theirs.block_out_channels),
        ("layers per level", ours.layers_per_block, theirs.layers_per_block),
        ("added conditioning", ours.addition_embed_type, theirs.addition_embed_type),
        ("latent channels", ours.out_channels, theirs.in_channels),
        ("control image channels", 3, theirs.conditioning_channels),
        ("pixels per latent", model.cell, stride),
    )


def _check_adapter(control: Control, net: Any, model: SteeredModel) -> None:
    """Of T2I-Adapters, which know neither text nor time: what they give must fit the features."""
    given, places = features_of(net), places_of(model.unet_config, model.cell)
    if given not in (places, places[:-1]):
        kinds = [_ADAPTERS.get(each[0][1], "another family") for each in (given, places)]
        told = [_features(each) for each in (given, places)]
        raise ModelError(
            f"{control} is a T2I-Adapter for {kinds[0]}, which does not fit the model "
            f"({kinds[1]}): it gives features of {told[0]}, and {told[1]} are needed."
        )
    if net.config.in_channels not in {1, 3}:
        raise ModelError(
            f"{control} takes control images of {net.config.in_channels} channels; 1 or 3 are "
            "supported."
        )


def _features(places: Sequence[tuple[int, float]]) -> str:
    return ", ".join(f"{channels} channels at 1/{side:g}" for channels, side in places)


def _check_flux(control: Control, net: Any, model: SteeredModel) -> None:
    """Of Flux' networks."""
    ours, theirs = model.unet_config, net.config
    _check_alike(
        control,
        ("text embeddings' dimensions", ours.joint_attention_dim, theirs.joint_attention_dim),
        ("heads", ours.num_attention_heads, theirs.num_attention_heads),
        ("dimensions per head", ours.attention_head_dim, theirs.attention_head_dim),
        ("token channels", ours.out_channels or ours.in_channels, theirs.in_channels),
    )
    if theirs.guidance_embeds and not ours.guidance_embeds:
        raise ModelError(f"{control} is for a model that is told the guidance, which this is not.")


def _check_alike(control: Control, *facts: tuple[str, Any, Any]) -> None:
    """Raise ``ModelError`` if one of the ``facts`` (what, the model's, the network's) differs."""
    for what, own, other in facts:
        if _plain(own) != _plain(other):
            raise ModelError(
                f"{control} does not fit the model: its {what} are {_plain(other)}, "
                f"{_plain(own)} are needed."
            )


def _width(dimensions: Any) -> str:
    family = _FAMILIES.get(dimensions) if isinstance(dimensions, int) else None
    return f"{dimensions} ({family})" if family else f"{dimensions}"


def _plain(value: Any) -> Any:
    """Configs hold the same values as lists and as tuples."""
    return tuple(value) if isinstance(value, list) else value


KINDS = {
    "ControlNetModel": NetKind(BoundControl, _check_unet),
    "ControlNetUnionModel": NetKind(BoundUnion, _check_unet, counts="num_control_type", fuses=True),
    "T2IAdapter": NetKind(BoundAdapter, _check_adapter),
    "FluxControlNetModel": NetKind(BoundFlux, _check_flux, counts="num_mode", modes=MODES),
}
"""By diffusers' names of the classes."""

"""The options of what steers an edit beside its text: ControlNets and IP-Adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.pairs import pair
from engine.errors import InputError
from engine.request.field import Group

if TYPE_CHECKING:
    from controls import Control, Reference

CONTROLS: dict[str, Any] = {
    "control": Annotated[
        list[str] | None,
        typer.Option(
            help="A ControlNet by name, or one or a T2I-Adapter by its file, folder or hub id, and "
            "what it reads: canny, canny=edges.png, canny:0.8:0-0.6; may be repeated.",
            metavar="NAME[=IMAGE][:SCALE[:START-END]]",
            rich_help_panel=str(Group.STEERING),
        ),
    ],
    "control_mask": Annotated[
        list[str] | None,
        typer.Option(
            help="Where that control holds, white = fully; may be repeated. Elsewhere the edit is "
            "what it is without that control, for one more run.",
            metavar="NAME=FILE",
            rich_help_panel=str(Group.STEERING),
        ),
    ],
    "ip_adapter": Annotated[
        list[str] | None,
        typer.Option(
            "--ip-adapter",
            help="An IP-Adapter's file and the picture that it reads: "
            "ip-adapter_sdxl.safetensors=style.png:0.6; may be repeated. Its image encoder is "
            "looked for beside it.",
            metavar="FILE=PICTURE[:SCALE]",
            rich_help_panel=str(Group.STEERING),
        ),
    ],
    "ip_adapter_mask": Annotated[
        list[str] | None,
        typer.Option(
            "--ip-adapter-mask",
            help="Where that adapter's pictures hold, white = fully.",
            metavar="FILE=MASK",
            rich_help_panel=str(Group.STEERING),
        ),
    ],
    "loose_masks": Annotated[
        bool | None,
        typer.Option(
            "--loose-masks",
            help="No more runs for control masks; their controls' effect spreads beyond them.",
            rich_help_panel=str(Group.STEERING),
        ),
    ],
}
"""The command line's way to say ``controls`` and ``ip_adapter_image``."""


def controls_of(
    control: Sequence[str] | None,
    control_mask: Sequence[str] | None,
    loose_masks: bool | None,
) -> list[list[Control]]:
    """Each ``--control``, with its ``--control-mask``."""
    if loose_masks and not control_mask:
        raise InputError("--loose-masks is about --control-mask, and there is none.")
    if not control and not control_mask:
        return []
    from controls import Control

    masks = dict(pair(text, "--control-mask", "NAME=FILE") for text in control_mask or ())
    parsed = [Control.parse(text) for text in control or ()]
    names = {several[0].model for several in parsed}
    if unused := masks.keys() - names:
        raise InputError(f"--control-mask {min(unused)}=...: there is no --control {min(unused)}.")
    exact = not loose_masks
    return [
        [dataclasses.replace(each, mask=masks.get(each.model), exact=exact) for each in several]
        for several in parsed
    ]


def references_of(adapters: Sequence[str], masks: Sequence[str]) -> dict[str, list[Reference]]:
    """By each adapter's file the pictures that it reads, with its ``--ip-adapter-mask``."""
    if not adapters and not masks:
        return {}
    from controls import Reference

    held = dict(pair(text, "--ip-adapter-mask", "FILE=MASK") for text in masks)
    found: dict[str, list[Reference]] = {}
    for text in adapters:
        file = Reference.parse(text)[0]
        mask = Path(held[file]) if file in held else None
        found.setdefault(file, []).append(Reference.parse(text, mask)[1])
    if unused := held.keys() - found.keys():
        raise InputError(
            f"--ip-adapter-mask {min(unused)}=...: there is no --ip-adapter {min(unused)}=..."
        )
    return found

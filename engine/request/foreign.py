"""Records of other programs in a picture's file: stable-diffusion-webui, ComfyUI, InvokeAI.

Whoever made the file, what is read is data: words and numbers, which are checked as everybody's
are when an edit begins. No file that a record names is looked for.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import InputError, SoftpaintWarning
from engine.picture.metadata import read_metadata, texts_of
from engine.request import infotext, invoke
from engine.request.invoke import kept, number
from engine.request.record import KEY, EditRecord

DEPTH = 20
"""Links of a ComfyUI graph that are followed from its sampler to a text."""


@dataclass(frozen=True)
class ForeignRecord:
    """What another program says of how it made a picture."""

    program: str
    settings: Mapping[str, Any]
    """What is understood of it, by the settings' names here."""
    left: Mapping[str, str]
    """The rest, by its names there."""

    @classmethod
    def read(cls, source: str | os.PathLike[str]) -> ForeignRecord | None:
        """The record in a picture's file; None where there is none that is known."""
        return read_texts(texts_of(source))

    def as_edit(self) -> EditRecord:
        """The same as a record of an edit whose picture and mask are not known."""
        return EditRecord(
            version=self.program,
            image=None,
            region={},
            load={},
            edit=self.settings,
            index=0,
            settings=self.settings,
            timings={},
        )

    def lines(self) -> list[str]:
        """For a person, one ``name: value`` a line."""
        shown = {"made by": self.program, **self.settings}
        width = max(map(len, [*shown, *self.left]))
        lines = [f"{name:<{width}}  {_shown(value)}" for name, value in shown.items()]
        if self.left:
            lines.append("what --from does not take over:")
            lines += [f"{name:<{width}}  {_shown(value)}" for name, value in self.left.items()]
        return lines


def _shown(value: Any) -> str:
    if isinstance(value, str) and value.isprintable():
        return value
    return json.dumps(value, ensure_ascii=False)


def read_texts(texts: Mapping[str, str]) -> ForeignRecord | None:
    """The record in a file's texts by their keywords."""
    if (table := _table(texts.get(invoke.KEYWORD))) is not None:
        return ForeignRecord("InvokeAI", *invoke.read(table))
    if (graph := _table(texts.get("prompt"))) is not None:
        return ForeignRecord("ComfyUI", *_comfy(graph))
    if texts.get("workflow"):
        return ForeignRecord("ComfyUI", {}, {"workflow": "without the prompt that was run"})
    if text := texts.get(infotext.KEYWORD):
        settings, left = infotext.read(text)
        return ForeignRecord("stable-diffusion-webui", settings, left)
    return None


def _table(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# --- ComfyUI -------------------------------------------------------------------------------------

_COMFY = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "ddim": "DDIM",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_gpu": "DPM++ 2M SDE",
    "heun": "Heun",
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "lms": "LMS",
    "uni_pc": "UniPC",
    "lcm": "LCM",
}
_SCHEDULES = {"normal": "", "simple": "", "ddim_uniform": "", "karras": "Karras"}
_SCHEDULES["sgm_uniform"] = "SGM Uniform"


def _comfy(graph: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    nodes = {str(name): node for name, node in graph.items() if isinstance(node, dict)}
    sampler = next((n for n in nodes.values() if {"positive", "steps"} <= _inputs(n).keys()), None)
    left: dict[str, str] = {}
    for node in nodes.values():
        inputs = _inputs(node)
        for name in ("ckpt_name", "unet_name"):
            if isinstance(inputs.get(name), str):
                left["model"] = inputs[name]
        if isinstance(inputs.get("lora_name"), str):
            left[f"LoRA {inputs['lora_name']}"] = str(inputs.get("strength_model", 1))
    if sampler is None:
        return {}, {**left, "graph": "no sampler of a known kind"}
    inputs = _inputs(sampler)
    name, schedule = str(inputs.get("sampler_name")), str(inputs.get("scheduler"))
    scheduler = None
    if name in _COMFY and schedule in _SCHEDULES:
        scheduler = infotext.scheduler_of(_COMFY[name], _SCHEDULES[schedule])
    if scheduler is None:
        left["sampler"] = f"{name} {schedule}"
    seeds = (_value(inputs.get(each), nodes) for each in ("seed", "noise_seed"))
    settings = kept(
        {
            "prompt": _text_at(inputs.get("positive"), "positive", nodes),
            "negative_prompt": _text_at(inputs.get("negative"), "negative", nodes) or None,
            "num_inference_steps": number(_value(inputs.get("steps"), nodes), int),
            "guidance_scale": number(_value(inputs.get("cfg"), nodes), float),
            "seed": next((n for each in seeds if (n := number(each, int)) is not None), None),
            "strength": number(_value(inputs.get("denoise"), nodes), float) or None,
            "scheduler": scheduler,
        }
    )
    kinds = {str(node.get("class_type")) for node in nodes.values()}
    known = (
        *("KSampler", "CLIPTextEncode", "CheckpointLoader", "LoraLoader", "LoadImage"),
        *("VAE", "SaveImage", "EmptyLatentImage", "PreviewImage"),
    )
    if rest := sorted(kind for kind in kinds if not kind.startswith(known)):
        left["other nodes"] = ", ".join(rest)
    return settings, left


def _inputs(node: Mapping[str, Any]) -> dict[str, Any]:
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _linked(value: Any, nodes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The node that an input is linked to."""
    is_link = isinstance(value, list) and len(value) == 2
    return nodes.get(str(value[0])) if is_link else None


def _value(value: Any, nodes: Mapping[str, Any]) -> Any:
    """An input's own value, or that of the primitive node that it is linked to."""
    for _ in range(DEPTH):
        node = _linked(value, nodes)
        if node is None:
            return None if isinstance(value, list) else value
        inputs = _inputs(node)
        names = ("value", "text", "string", "int", "float", "seed", "noise_seed", "number")
        value = next((inputs[name] for name in names if name in inputs), None)
    return None


def _text_at(value: Any, side: str, nodes: Mapping[str, Any]) -> str | None:
    """The text that a sampler's input leads to, by way of whatever changes a conditioning."""
    for _ in range(DEPTH):
        node = _linked(value, nodes)
        if node is None:
            return None
        if texts := list(_texts(node, nodes)):
            return "\n".join(dict.fromkeys(texts))
        inputs = _inputs(node)
        names = (side, "conditioning", "conditioning_1", "conditioning_to")
        value = next((inputs[name] for name in names if name in inputs), None)
    return None


def _texts(node: Mapping[str, Any], nodes: Mapping[str, Any]) -> Iterator[str]:
    for name in ("text", "text_g", "text_l"):
        value = _value(_inputs(node).get(name), nodes)
        if isinstance(value, str):
            yield value


def record_of(source: str | os.PathLike[str]) -> tuple[EditRecord, ForeignRecord | None]:
    """Softpaint's record in a file, or another program's as one.

    Raises:
        InputError: there is none, or it is damaged or of another version's format.
    """
    try:
        return EditRecord.read(source), None
    except InputError as error:
        foreign = ForeignRecord.read(source)
        if foreign is None:
            raise
        if _holds_own(source):
            told = f"{error} What it says in the words of other programs is taken in their place."
            warnings.warn(SoftpaintWarning(told), stacklevel=3)
        return foreign.as_edit(), foreign


def _holds_own(source: str | os.PathLike[str]) -> bool:
    """Whether a file holds a record of Softpaint's, be it readable or not."""
    try:
        return KEY in read_metadata(source)
    except InputError:
        return False

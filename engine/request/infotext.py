"""stable-diffusion-webui's text of a picture's settings ("parameters"), written and read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

KEYWORD = "parameters"
"""Of the PNG text chunk that holds it."""

SAMPLERS: Mapping[str, tuple[str, str]] = {
    "euler": ("Euler", ""),
    "euler-karras": ("Euler", "Karras"),
    "euler-trailing": ("Euler", "SGM Uniform"),
    "euler-a": ("Euler a", ""),
    "ddim": ("DDIM", ""),
    "dpmpp-2m": ("DPM++ 2M", ""),
    "dpmpp-2m-karras": ("DPM++ 2M", "Karras"),
    "dpmpp-2m-sde": ("DPM++ 2M SDE", ""),
    "dpmpp-2m-sde-karras": ("DPM++ 2M SDE", "Karras"),
    "dpmpp-2s": ("DPM++ 2S", ""),
    "unipc": ("UniPC", ""),
    "heun": ("Heun", ""),
    "kdpm2": ("DPM2", ""),
    "kdpm2-a": ("DPM2 a", ""),
    "lms": ("LMS", ""),
    "pndm": ("PLMS", ""),
    "lcm": ("LCM", ""),
    "tcd": ("TCD", ""),
}
"""Schedulers here -> sampler and schedule there."""
OF_MODELS: Mapping[str, str] = {
    "EulerDiscreteScheduler": "euler",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler-a",
    "DDIMScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpmpp-2m",
    "UniPCMultistepScheduler": "unipc",
    "HeunDiscreteScheduler": "heun",
    "PNDMScheduler": "pndm",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
}
"""Classes of models' own schedulers, as an edit without a name for one records them -> names."""
LORA = re.compile(r"\s*<(?:lora|lyco):([^<>:]+)(?::([^<>]*))?>")
_SETTING = re.compile(r'\s*([\w][\w /+-]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_NEGATIVE = "Negative prompt:"
_PLAIN: Mapping[str, tuple[str, Any]] = {
    "Steps": ("num_inference_steps", int),
    "CFG scale": ("guidance_scale", float),
    "Seed": ("seed", int),
    "Denoising strength": ("strength", float),
}
"""Settings that mean the same there."""


def scheduler_of(sampler: str, schedule: str = "") -> str | None:
    """The scheduler here that is a sampler there; None where there is none."""
    words = sampler.strip()
    if words.endswith(" Karras"):  # before schedules had a field of their own
        words, schedule = words.removesuffix(" Karras"), "Karras"
    schedule = "" if schedule.strip() in {"Automatic", "Uniform", "Normal"} else schedule.strip()
    known = {each: name for name, each in SAMPLERS.items()}
    return known.get((words, schedule))


def written(used: Mapping[str, Any], load: Mapping[str, Any], seed: int | None) -> str:
    """The text for an edit.

    Args:
        used: its settings, as the result tells them.
        load: what the model was loaded from.
        seed: the picture's own.
    """
    loras = "".join(f" <lora:{stem}:{weight}>" for stem, weight in loras_of(load))
    size = used.get("size") or (0, 0)
    said: dict[str, Any] = {"Steps": used.get("num_inference_steps")}
    name = solver_in(used)
    sampler, schedule = SAMPLERS.get(name, (name or None, ""))
    said |= {"Sampler": sampler, "Schedule type": schedule or None}
    said |= {"CFG scale": used.get("guidance_scale"), "Seed": seed}
    said |= {"Size": f"{size[0]}x{size[1]}", "Model": name_of(str(used.get("model", "")))}
    said["Denoising strength"] = used.get("strength")
    if used.get("clip_skip") is not None:
        said["Clip skip"] = int(used["clip_skip"]) + 1
    said["Version"] = "softpaint"
    line = ", ".join(f"{key}: {_quoted(value)}" for key, value in said.items() if value is not None)
    lines = [f"{prompt_text(used.get('prompt'))}{loras}"]
    if used.get("negative_prompt"):
        lines.append(f"{_NEGATIVE} {prompt_text(used['negative_prompt'])}")
    return "\n".join([*lines, line])


def solver_in(used: Mapping[str, Any]) -> str:
    """The name of the scheduler of an edit's settings."""
    told = str(used.get("scheduler") or "")
    return OF_MODELS.get(told, told)


def prompt_text(value: Any) -> str:
    """A prompt, or several, as one text."""
    return value if isinstance(value, str) else "\n".join(map(str, value or ()))


def name_of(place: str) -> str:
    """What other programs call a model: its file without folder and suffix."""
    last = PureWindowsPath(place).name if "\\" in place else PurePosixPath(place).name
    return last.removesuffix(".safetensors")


def loras_of(load: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and weights of the LoRAs among what a model was loaded from."""
    return [_lora(each) for each in load.get("lora", ())]


def _lora(recorded: str) -> tuple[str, str]:
    place, _, weight = recorded.rpartition(":")
    if not place.endswith(".safetensors"):
        place, weight = recorded, "1"
    return name_of(place), weight


def _quoted(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:"\n') else text


def read(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings in a text by their names here, and what else it says by its names there."""
    *lines, last = text.strip().split("\n")
    found = _SETTING.findall(last)
    if len(found) < 3 or "Steps" not in {key for key, _ in found}:
        lines, found = [*lines, last], []
    prompt, _, negative = "\n".join(lines).partition(_NEGATIVE)
    said = {key.strip(): _unquoted(value.strip()) for key, value in found}
    settings: dict[str, Any] = {}
    left: dict[str, str] = {}
    for name, words in (("prompt", prompt), ("negative_prompt", negative)):
        for lora, weight in LORA.findall(words):
            left[f"LoRA {lora}"] = weight or "1"
        if (plain := LORA.sub("", words).strip()) or name == "prompt":
            settings[name] = plain
    sampler, schedule = said.pop("Sampler", ""), said.pop("Schedule type", "")
    if (scheduler := scheduler_of(sampler, schedule)) is not None:
        settings["scheduler"] = scheduler
    elif sampler:
        left["Sampler"] = f"{sampler} {schedule}".strip()
    for key, value in said.items():
        if key not in _PLAIN and key != "Clip skip":
            left[key] = value
            continue
        name, kind = _PLAIN.get(key, ("clip_skip", int))
        try:
            settings[name] = kind(value) - (1 if key == "Clip skip" else 0)
        except ValueError:
            left[key] = value
    return settings, left


def _unquoted(value: str) -> str:
    if len(value) > 1 and value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value

"""InvokeAI's record of a picture's settings ("invokeai_metadata"), written and read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.request.infotext import loras_of, name_of, prompt_text, solver_in

KEYWORD = "invokeai_metadata"
"""Of the PNG text chunk that holds it; InvokeAI reads no other format's."""
SCHEDULERS: Mapping[str, str] = {
    "euler": "euler",
    "euler_k": "euler-karras",
    "euler_a": "euler-a",
    "ddim": "ddim",
    "ddpm": "ddpm",
    "deis": "deis",
    "dpmpp_2m": "dpmpp-2m",
    "dpmpp_2m_k": "dpmpp-2m-karras",
    "dpmpp_2m_sde": "dpmpp-2m-sde",
    "dpmpp_2m_sde_k": "dpmpp-2m-sde-karras",
    "dpmpp_2s": "dpmpp-2s",
    "heun": "heun",
    "kdpm_2": "kdpm2",
    "kdpm_2_a": "kdpm2-a",
    "lms": "lms",
    "pndm": "pndm",
    "unipc": "unipc",
    "lcm": "lcm",
    "tcd": "tcd",
}
"""Schedulers there -> here."""
BASES: Mapping[str, str] = {"sdxl": "sdxl", "sd3": "sd-3", "flux": "flux"}
"""Families -> what InvokeAI calls them, where a family is one base model there."""


def written(used: Mapping[str, Any], load: Mapping[str, Any], seed: int | None) -> str:
    """The record of an edit; arguments as of :func:`engine.request.infotext.written`.

    The fields are those of InvokeAI's ``CoreMetadataInvocation``. It knows models by keys of its
    own, which are not known here, and finds them by their names then.
    """
    base = BASES.get(str(used.get("family")), "any")
    size = used.get("size") or (0, 0)
    known = {own: there for there, own in SCHEDULERS.items()}

    def model(name: str, kind: str) -> dict[str, str]:
        return {"key": "", "hash": "", "name": name, "base": base, "type": kind}

    said: dict[str, Any] = {
        "app_version": "softpaint",
        "generation_mode": "inpaint" if base == "any" else f"{base.replace('-', '')}_inpaint",
        "positive_prompt": prompt_text(used.get("prompt")),
        "negative_prompt": prompt_text(used.get("negative_prompt")),
        "width": size[0],
        "height": size[1],
        "seed": seed,
        "rand_device": "cpu",
        "cfg_scale": used.get("guidance_scale"),
        "cfg_rescale_multiplier": used.get("guidance_rescale"),
        "steps": used.get("num_inference_steps"),
        "scheduler": known.get(solver_in(used)),
        "strength": used.get("strength"),
        "clip_skip": used.get("clip_skip"),
        "model": model(name_of(str(used.get("model", ""))), "main"),
        "loras": [
            {"model": model(name, "lora"), "weight": float(weight)}
            for name, weight in loras_of(load)
        ],
    }
    return json.dumps(kept(said), ensure_ascii=False)


def read(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings in a record by their names here, and what else it says by its names there."""
    texts = {
        n: t for n in ("positive_prompt", "negative_prompt") if isinstance(t := table.get(n), str)
    }
    scheduler = table.get("scheduler")
    skip = number(table.get("clip_skip"), int)
    settings = kept(
        {
            "prompt": texts.get("positive_prompt"),
            "negative_prompt": texts.get("negative_prompt") or None,
            "num_inference_steps": number(table.get("steps"), int),
            "guidance_scale": number(table.get("cfg_scale"), float),
            "seed": number(table.get("seed"), int),
            "strength": number(table.get("strength"), float) or None,
            "scheduler": SCHEDULERS.get(scheduler) if isinstance(scheduler, str) else None,
            "clip_skip": skip or None,
        }
    )
    left = {}
    if scheduler and "scheduler" not in settings:
        left["scheduler"] = str(scheduler)
    model = table.get("model")
    if isinstance(model, dict):
        left["model"] = str(model.get("name") or model.get("model_name") or model.get("key"))
    for each in table.get("loras") or []:
        if isinstance(each, dict):
            named = each.get("model") or each.get("lora") or {}
            name = named.get("name") or named.get("model_name") if isinstance(named, dict) else None
            left[f"LoRA {name}"] = str(each.get("weight", 1))
    known = {"positive_prompt", "negative_prompt", "steps", "cfg_scale", "seed", "strength"}
    known |= {"scheduler", "clip_skip", "model", "loras"}
    rest = {name: value for name, value in table.items() if name not in known and value is not None}
    left |= {n: str(v) for n, v in rest.items() if isinstance(v, str | int | float)}
    return settings, left


def number(value: Any, kind: type) -> Any:
    """A number as ``kind``; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return kind(value)


def kept(found: Mapping[str, Any]) -> dict[str, Any]:
    """``found`` without what is None."""
    return {name: value for name, value in found.items() if value is not None}

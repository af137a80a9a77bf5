"""Where models are: known names, folders, hub ids, files; and what is said when they are not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.models.checkpoints import find_checkpoint, hint

ANSWER = 10.0
"""Seconds in which the hub has to answer."""
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def locate(model: str | os.PathLike[str], index: str = "model_index.json") -> Path | str:
    """A path that exists, or a hub id."""
    if (checkpoint := find_checkpoint(model)) is not None:
        if not (checkpoint.folder / "model_index.json").is_file():
            raise ModelError(
                f"the {checkpoint.name} model is not in this installation: {checkpoint.folder} has "
                "no model_index.json."
            )
        return checkpoint.folder
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if not any((path / name).is_file() for name in {index, "model_index.json"}):
            held = _part_in(path)
            raise ModelError(
                f"{model} holds no whole model but {held} alone. {hint()}"
                if held
                else f"{model} is no diffusers model folder: it has no {index}. {hint()}"
            )
        return path
    if not isinstance(model, str) or not HUB_ID.match(model):
        raise ModelError(f"there is no model at {model}. {hint()}")
    return model


def _part_in(folder: Path) -> str:
    """The class of the one part of a model that a folder holds; empty if it does not say."""
    for name in ("config.json", "adapter_config.json"):
        try:
            config = json.loads((folder / name).read_text("utf-8"))
            told = config.get("_class_name") or next(iter(config.get("architectures") or ()), "")
            return str(told or ("LoRA" if name.startswith("adapter") else ""))
        except (OSError, ValueError, AttributeError):
            continue
    return ""


def config_file(source: Path | str, name: str = "config.json") -> Path:
    """The configuration ``name`` in a folder or behind a hub id."""
    if isinstance(source, Path):
        return source / name
    return hub_file(source, name)


def hub_file(repository: str, name: str) -> Path:
    """A file of a repository on the hub, or of what was downloaded of it.

    The hub's own function tries a connection that fails again for 23 seconds; this asks once.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(repository, name), timeout=ANSWER)
    except Exception as error:  # noqa: BLE001 - the transport's are many; others come again below
        if _looks_unreachable(error):
            return Path(hf_hub_download(repository, name, local_files_only=True))
    return Path(hf_hub_download(repository, name))


@contextmanager
def asked_once(place: Any, name: str = "config.json") -> Iterator[None]:
    """For libraries that fetch by themselves: where ``place`` is on the hub and that does not
    answer, they look at what was downloaded, and do not ask again and again.

    Args:
        place: a folder or hub id.
        name: a file that it has.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    before = constants.HF_HUB_OFFLINE
    away = before
    if not before and HUB_ID.match(str(place)) and not Path(place).exists():
        try:
            get_hf_file_metadata(hf_hub_url(str(place), name), timeout=ANSWER)
        except Exception as error:  # noqa: BLE001 - as above
            away = _looks_unreachable(error)
    constants.HF_HUB_OFFLINE = away
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def guarded(load: Any, model: Any) -> Any:
    """Run ``load``; say in one line what went wrong."""
    try:
        with no_loading_bars():
            return load()
    except (OSError, ValueError, json.JSONDecodeError, KeyError) as error:
        if _looks_unreachable(error) and not Path(model).exists():
            raise ModelError(
                f"{model} is not here and the model hub cannot be reached. {hint()}"
            ) from error
        raise ModelError(f"{model} could not be loaded: {first_line(error)}") from error


@contextmanager
def no_loading_bars() -> Iterator[None]:
    """Without the libraries' bars for reading a folder (downloads keep theirs)."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [
        library
        for library in (diffusers_logging, transformers_logging)
        if library.is_progress_bar_enabled()
    ]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _looks_unreachable(error: BaseException) -> bool:
    """Whether a load failed for want of the network (hub errors chain the transport's)."""
    seen: BaseException | None = error
    while seen is not None:
        name = type(seen).__name__
        if "Connect" in name or name in ("LocalEntryNotFoundError", "OfflineModeIsEnabled"):
            return True
        if isinstance(seen, (ConnectionError, TimeoutError)):
            return True
        seen = seen.__cause__ or seen.__context__
    text = str(error).lower()
    return "couldn't connect" in text or "connection" in text or "offline" in text


def first_line(error: BaseException) -> str:
    """What an error's message begins with."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))

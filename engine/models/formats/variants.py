"""Which of the weights of a folder are loaded, where they are there in half precision too."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

HALF = ".fp16."
WEIGHTS = (".safetensors", ".bin")


def variant_of(source: Path | str, pattern: str) -> dict[str, str]:
    """The arguments of diffusers' ``from_pretrained`` that load weights in half precision: from a
    folder where only those are there, from the hub where it has them and nothing is here yet, so
    that nobody downloads twice what is run in half precision.

    Args:
        source: a folder, or a hub id.
        pattern: the place of the weights in it, such as ``unet/*``.
    """
    names = _in_folder(source) if isinstance(source, Path) else _on_hub(source)
    weights = [name for name in names if fnmatch(name, pattern) and name.endswith(WEIGHTS)]
    half = [name for name in weights if HALF in name]
    folders = {name.rpartition("/")[0] for name in weights}
    full = {name.rpartition("/")[0] for name in weights if HALF not in name}
    wanted = folders - full if isinstance(source, Path) else half
    return {"variant": "fp16"} if wanted else {}


def _in_folder(folder: Path) -> list[str]:
    places = [*folder.glob("*"), *folder.glob("*/*")]
    return [place.relative_to(folder).as_posix() for place in places]


def _on_hub(model: str) -> list[str]:
    """The names of a hub model's files: of those that are here, if weights are; else of all, if the
    hub can be asked.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        here = _in_folder(Path(snapshot_download(model, local_files_only=True)))
    except (OSError, ValueError):
        here = []
    if any(name.endswith(WEIGHTS) for name in here):
        full = [name for name in here if HALF not in name]
        # What is loaded is what is here: a full download is no reason for a second one in half.
        return full if any(name.endswith(WEIGHTS) for name in full) else here
    try:
        return HfApi().list_repo_files(model)
    except Exception:  # noqa: BLE001 - the transport's are many, and loading says what is wrong
        return []

"""What adapters' files say of themselves, heard before a model of gigabytes is loaded for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engine.errors import ModelError
from engine.models.family import layout_of
from engine.models.formats.kinds import EMBEDDING, IP_ADAPTER, LORA, Kind, kind_of
from engine.models.header import read_header


def check_adapters(
    loras: Sequence[str],
    embeddings: Sequence[str],
    ip_adapters: Sequence[str],
    find: Callable[[str, tuple[str, ...]], Path],
) -> None:
    """Raise ``ModelError`` for a file that is not there, not whole, or of another kind. What is on
    the hub is looked at when it is loaded, pickled files then too.

    ``find``: the file at a place, of one of some suffixes.
    """
    for places, kind, suffixes in (
        (loras, LORA, (".safetensors",)),
        (embeddings, EMBEDDING, (".safetensors", ".pt", ".bin")),
        (ip_adapters, IP_ADAPTER, (".safetensors", ".bin")),
    ):
        for place in places:
            if Path(place).expanduser().exists() or Path(place).suffix in suffixes:
                check_adapter(find(place, suffixes), kind)


def check_adapter(path: Path, wanted: Kind) -> None:
    """Raise ``ModelError`` if the file at ``path`` says that it is something else."""
    if path.suffix != ".safetensors":
        return
    header = read_header(path)
    found = kind_of(header)
    whole = layout_of(header)
    if whole is None and found in {None, wanted}:
        return
    told = f"a whole checkpoint ({whole[1].description})" if whole else found.what if found else ""
    raise ModelError(f"{path} is {told}, not {wanted.what}.")

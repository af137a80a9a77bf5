"""IP-Adapters (Ye et al. 2023) by their files, with the image encoder that lies beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError
from engine.models.formats.early import check_adapter
from engine.models.formats.kinds import IP_ADAPTER
from engine.models.formats.pickled import read_pickled
from engine.models.formats.sources import first_line, no_loading_bars

if TYPE_CHECKING:
    import torch

    State = Mapping[str, Mapping[str, torch.Tensor]]

ENCODER = "image_encoder"
"""What diffusers and the adapters' authors call the encoder's folder."""


def load_ip_adapters(pipe: Any, files: Sequence[Path]) -> None:
    """Put the adapters in ``files`` into a pipeline, in the place of those that it has.

    Raises:
        ModelError: one is no IP-Adapter, or of another family; the image encoder that they read
            pictures with is not there, or they want different ones.
    """
    states = [_state(file) for file in files]
    for file, state in zip(files, states, strict=True):
        _check_family(file, state, pipe)
    if getattr(pipe, ENCODER, None) is None:
        encoder = _encoder(files, [_reads(state) for state in states])
        if encoder is not None:
            pipe.register_modules(**{ENCODER: _loaded_encoder(encoder, pipe)})
    count = len(files)
    try:
        with no_loading_bars():
            pipe.load_ip_adapter(
                states,
                subfolder=[""] * count,
                weight_name=[""] * count,
                image_encoder_folder=None,
            )
    except (KeyError, ValueError, RuntimeError) as error:
        pipe.unload_ip_adapter()
        names = ", ".join(file.name for file in files)
        raise ModelError(f"{names} does not fit this model: {first_line(error)}.") from error


def _check_family(file: Path, state: State, pipe: Any) -> None:
    """Raise ``ModelError`` if an adapter's layers do not stand beside the UNet's text."""
    unet = getattr(pipe, "unet", None)
    if unet is None:  # transformers' adapters have other layers, which diffusers checks
        return
    wanted = unet.config.cross_attention_dim
    own = next((w.shape[1] for n, w in state["ip_adapter"].items() if "to_k_ip" in n), wanted)
    if own != wanted:
        raise ModelError(
            f"{file} is an IP-Adapter of another family: it stands beside text embeddings of {own} "
            f"dimensions, the model's have {wanted}."
        )


def _state(file: Path) -> State:
    """The two tables of an adapter's file."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        check_adapter(file, IP_ADAPTER)
        tables: dict[str, dict[str, Any]] = {"image_proj": {}, "ip_adapter": {}}
        for name, tensor in load_file(file).items():
            table, _, rest = name.partition(".")
            tables.setdefault(table, {})[rest] = tensor
    else:
        tables = read_pickled(file)
    if not tables.get("image_proj") or not tables.get("ip_adapter"):
        raise ModelError(f"{file} is no IP-Adapter: image_proj and ip_adapter are not in it.")
    return {name: tables[name] for name in ("image_proj", "ip_adapter")}


def _reads(state: State) -> tuple[str, int] | None:
    """What its projection reads of an image encoder, as a value of the encoder's config; None for
    a FaceID, which reads embeddings of faces.
    """
    projection = state["image_proj"]
    if "proj.weight" in projection:
        return "projection_dim", projection["proj.weight"].shape[1]
    if "proj_in.weight" in projection and "perceiver_resampler.proj_in.weight" not in projection:
        return "hidden_size", projection["proj_in.weight"].shape[1]
    if "proj.0.weight" in projection and "proj.3.weight" in projection:
        return "hidden_size", projection["proj.0.weight"].shape[1]  # "full face"
    return None


def _encoder(files: Sequence[Path], wanted: Sequence[tuple[str, int] | None]) -> Path | None:
    """The folder of the one image encoder that all of ``files`` read with; None if none does."""
    needed = {each for each in wanted if each is not None}
    if not needed:
        return None
    seen = []
    for folder in _beside(files):
        config = json.loads((folder / "config.json").read_text("utf-8"))
        if all(config.get(key) == value for key, value in needed):
            return folder
        seen.append(str(folder))
    told = " and ".join(f"{key} {value}" for key, value in sorted(needed))
    found = f"; {', '.join(seen)} is another" if seen else ""
    raise ModelError(
        f"{files[0].name} reads pictures with an image encoder ({told}), whose folder "
        f"{ENCODER!r} is not beside it{found}."
    )


def _beside(files: Sequence[Path]) -> Iterator[Path]:
    """Folders of image encoders near ``files``, as the authors' repository has them."""
    known = set()
    for file in files:
        near = file.absolute().parent
        for folder in (near, near.parent, near.parent / "models", near.parent / "sdxl_models"):
            place = folder / ENCODER
            if place not in known and (place / "config.json").is_file():
                known.add(place)
                yield place


def _loaded_encoder(folder: Path, pipe: Any) -> Any:
    from transformers import CLIPVisionModelWithProjection

    try:
        with no_loading_bars():
            encoder = CLIPVisionModelWithProjection.from_pretrained(
                str(folder), dtype=pipe.dtype, local_files_only=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder} holds no image encoder: {first_line(error)}.") from error
    return encoder.to(pipe.device).eval()

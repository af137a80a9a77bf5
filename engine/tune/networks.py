"""UNets as people have them on disk, opened as they are stored and written again in their form."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from engine.errors import InputError, ModelError
from engine.models.checkpoints import find_checkpoint
from engine.models.formats.assemble import assembled, read_config, unet_of
from engine.models.formats.kinds import kind_of
from engine.models.formats.original_names import original_names
from engine.models.formats.single_file import family_in
from engine.models.formats.sources import guarded, locate
from engine.models.formats.variants import variant_of
from engine.models.formats.weights import Weights, open_weights
from engine.models.header import PICKLED, read_header
from engine.models.layout import CONV_IN, UNET
from engine.picture.commit import Commit, try_out

if TYPE_CHECKING:
    import torch

Place = str | os.PathLike[str]
SUFFIX = ".safetensors"
_TYPES = {"F16": "float16", "BF16": "bfloat16"}
_AVERAGED = "model_ema."
"""Averaged weights of trainings, beside those that are used."""


@dataclass(frozen=True, eq=False)
class Network:
    """A UNet and where it was found."""

    place: str
    unet: Any
    """Diffusers' module, its weights in the type that they are stored in, on the CPU."""
    file: Path | None = None
    """The single file that it stands in."""

    @property
    def channels(self) -> int:
        """Of its input."""
        return int(self.unet.config.in_channels)

    @property
    def latents(self) -> int:
        """Channels of the latents, which are its output's."""
        return int(self.unet.config.out_channels)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its weights by diffusers' names."""
        return dict(self.unet.state_dict())

    def need(self, channels: int, role: str) -> None:
        """Raise ``InputError`` unless its input has so many ``channels``; ``role``: what it is."""
        if self.channels != channels:
            raise InputError(
                f"{self.place} takes {self.channels} channels; {role} takes {channels}."
            )


def open_network(place: Place, *, inpaint: bool = False) -> Network:
    """The UNet of a model: a known name, a folder of a pipeline or of the UNet alone, a hub id, or
    a single file, whole or with the UNet alone.

    Args:
        place: where it is.
        inpaint: of a known name, its 9-channel one.

    Raises:
        ModelError: there is none, it cannot be read, or its family has no UNet.
    """
    known = find_checkpoint(place)
    if inpaint and known is not None:
        if known.inpaint_model is None:
            raise ModelError(f"the {known.name} model has no 9-channel UNet.")
        place = known.inpaint_model
    source = locate(place, index="config.json")
    if isinstance(source, Path) and source.is_file():
        return Network(str(place), _in_file(source), source)
    return Network(str(place), _in_folder(place, source))


def _in_file(path: Path) -> Any:
    weights = open_weights(path)
    if "conv_in.weight" in weights.header and weights.header.has("down_blocks."):
        return unet_of(weights, _config_for(weights), stored_type(weights))
    if CONV_IN not in weights.header:
        kind = kind_of(weights.header)
        what = kind.what if kind else "no checkpoint of a known kind"
        raise ModelError(f"{path} is {what}: it holds no UNet.")
    return unet_of(weights, _config_for(weights), stored_type(weights))


def _config_for(weights: Weights) -> dict[str, Any]:
    """The config of a UNet's family: of the whole model's layout, or by the width of the text that
    a UNet alone is told.
    """
    from engine.models.family import FAMILIES

    header = weights.header
    if header.has("first_stage_model.", "conditioner.", "cond_stage_model."):
        return read_config(family_in(header)[1].configs, "unet")
    width = next(
        (shape[1] for name, shape in header.shapes.items() if name.endswith("attn2.to_k.weight")), 0
    )
    for layout in (each for family in FAMILIES for each in family.layouts):
        if (layout.configs / "unet").is_dir():
            config = read_config(layout.configs, "unet")
            if config["cross_attention_dim"] == width:
                return config
    raise ModelError(
        f"{header.path} holds a UNet alone, of a family that it does not tell; give a folder."
    )


def stored_type(weights: Weights) -> torch.dtype:
    """The type of a file's weights; float32 of those that are packed."""
    import torch

    kinds = weights.header.types
    first = next((kinds[name] for name in ("conv_in.weight", CONV_IN) if name in kinds), "F32")
    found: torch.dtype = getattr(torch, _TYPES.get(first, "float32"))
    return found


def _in_folder(place: Place, source: Path | str) -> Any:
    from diffusers import UNet2DConditionModel

    alone = isinstance(source, Path) and (source / "config.json").is_file()
    settings: dict[str, Any] = {} if alone else {"subfolder": "unet"}
    if isinstance(source, Path):
        folder = source if alone else source / "unet"
        _check_unet(place, folder)
        settings["dtype"] = _type_in(folder)
    settings |= variant_of(source, "*" if alone else "unet/*")
    return guarded(partial(UNet2DConditionModel.from_pretrained, str(source), **settings), place)


def _check_unet(place: Place, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{place} holds no UNet: there is no {folder.name}/config.json.")
    config = guarded(lambda: json.loads((folder / "config.json").read_text("utf-8")), place)
    kind = config.get("_class_name")
    if kind not in {None, "UNet2DConditionModel"}:
        raise ModelError(f"{place} holds a {kind}, not a UNet.")


def _type_in(folder: Path) -> torch.dtype:
    """The type of a folder's weights."""
    import torch

    found = sorted(folder.glob(f"*{SUFFIX}"))
    types = set(read_header(found[0]).types.values()) if found else set()
    named = next((_TYPES[each] for each in sorted(types) if each in _TYPES), "float32")
    kind: torch.dtype = getattr(torch, named)
    return kind


# Writing ------------------------------------------------------------------------------------------


def check_output(output: Path) -> None:
    """Refuse what cannot be written, before any work: a ``.safetensors`` file or a new folder.

    Raises:
        InputError: it exists, or its folder does not.
        OutputError: its folder cannot be written.
    """
    if not output.name or "\0" in str(output):
        raise InputError("the output needs a name: a .safetensors file or a folder.")
    if output.exists() or output.is_symlink():
        raise InputError(f"{output} exists already; give another name.")
    if output.suffix in {*PICKLED, ".gguf"}:
        raise InputError(
            f"{output}: weights are written to a {SUFFIX} file or a folder, not {output.suffix}."
        )
    if not output.parent.is_dir():
        raise InputError(f"{output}: the folder {output.parent} does not exist.")
    try_out(output)


def write_network(
    like: Network, tensors: Mapping[str, torch.Tensor], output: Path, channels: int
) -> None:
    """Write a UNet of ``tensors`` (by diffusers' names), ``channels`` of its input.

    A ``.safetensors`` file has the form of the one that ``like`` stands in, whose other tensors go
    along; without one it holds the UNet alone. A folder holds the UNet alone, as diffusers reads
    it. It is there whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    if output.suffix != SUFFIX:
        _write_folder(like, tensors, output, channels)
    elif like.file is None:
        _write_file(output, tensors, {"format": "pt"})
    else:
        _write_file(output, *_beside_others(like, tensors))


def check_form(like: Network, output: Path) -> None:
    """Raise ``InputError`` where ``output`` would have the form of a file whose weights are packed
    (float8, GGUF): they cannot be packed again.
    """
    if output.suffix == SUFFIX and like.file is not None and open_weights(like.file).packed:
        raise InputError(
            f"{like.place} holds packed weights, whose form is not written; give a folder as the "
            "output."
        )


def _write_folder(
    like: Network, tensors: Mapping[str, torch.Tensor], output: Path, channels: int
) -> None:
    from diffusers import UNet2DConditionModel

    config = {**like.unet.config, "in_channels": channels}
    unet = assembled(UNet2DConditionModel.from_config, config, dict(tensors), "the UNet")
    with new_folder(output) as made:
        unet.save_pretrained(made)


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Where a folder is made that is at ``output`` when the block ends well, and nowhere else."""
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".softpaint-") as folder:
        made = Path(folder) / output.name
        yield made
        made.chmod(0o777 & ~_umask())
        for each in made.iterdir():  # safetensors' are for their owner alone
            each.chmod(0o666 & ~_umask())
        made.rename(output)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_file(
    output: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    from safetensors.torch import save_file

    # safetensors writes to a name of its own choosing only: there, then into its place.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".softpaint-") as folder:
        made = Path(folder) / output.name
        save_file({name: each.contiguous() for name, each in tensors.items()}, made, dict(metadata))
        with Commit() as together:
            together.write(output, partial(_copy, made))


def _copy(made: Path, target: IO[bytes]) -> None:
    with made.open("rb") as source:
        shutil.copyfileobj(source, target, 2**24)


def _beside_others(
    like: Network, tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of ``like``'s file with the changed ones in their places, and its metadata."""
    from safetensors import safe_open

    named = _file_names(like.unet)
    with safe_open(str(like.file), framework="pt") as file:
        stored = set(file.keys())
        changed = {}
        for name, tensor in tensors.items():
            own = next((each for each in named(name) if each in stored), "")
            if not own:
                raise ModelError(f"{like.place} has another place for {name} than is known.")
            changed[own] = tensor
        kept = {
            name: file.get_tensor(name)
            for name in stored - changed.keys()
            if not name.startswith(_AVERAGED)
        }
        return {**kept, **changed}, dict(file.metadata() or {"format": "pt"})


def _file_names(unet: Any) -> Callable[[str], tuple[str, ...]]:
    """What files may call a tensor that diffusers gives this name."""
    modules = [name for name, _ in unet.named_modules()]
    originals = original_names(modules, unet.config.layers_per_block)

    def named(name: str) -> tuple[str, ...]:
        module, _, kind = name.rpartition(".")
        original = f"{originals.get(module, module)}.{kind}"
        return UNET + original, original, name

    return named

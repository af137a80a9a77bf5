"""What is laid over a loaded model: LoRAs and textual inversions, by their files."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from engine.errors import InputError, ModelError, SoftpaintWarning
from engine.models.formats.early import check_adapter
from engine.models.formats.embeddings import insert_embedding, remove_embedding
from engine.models.formats.kinds import LORA, kind_of
from engine.models.formats.lora import COMPONENTS, matched, read_lora, state_dict_of
from engine.models.formats.sources import first_line, guarded, hub_file, no_loading_bars
from engine.models.header import read_header
from engine.models.lora import adding_adapters
from engine.models.state import dtype_of

WEIGHTS = "pytorch_lora_weights.safetensors"
"""What diffusers calls a LoRA in a folder."""
_LAYER = re.compile(r"\.(?:lora_[AB]|lora\.(?:up|down)|alpha|diff|lora_magnitude_vector)\b")
_WEIGHT = re.compile(r"(?P<place>.+):(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))")
_ON_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<file>[\w./-]+\.safetensors))?")


@dataclass(frozen=True)
class Lora:
    """A LoRA and its weight."""

    place: str
    """A file, a folder or a hub id (``owner/name`` or ``owner/name/file.safetensors``)."""
    weight: float = 1.0

    @classmethod
    def of(cls, given: Any) -> Lora:
        """From ``"FILE[:WEIGHT]"``, a path, or a (file, weight) pair.

        Raises:
            InputError: it is none of these.
        """
        if isinstance(given, Lora):
            return given
        place, weight = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        if not isinstance(place, str | os.PathLike) or not os.fspath(place):
            raise InputError(f"a LoRA is FILE[:WEIGHT] or a (file, weight) pair, not {given!r}.")
        text = os.fspath(place)
        if weight is None and not Path(text).exists() and (found := _WEIGHT.fullmatch(text)):
            return cls(found["place"], float(found["weight"]))
        weight = 1.0 if weight is None else weight
        if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
            raise InputError(f"a LoRA's weight must be a finite number, not {weight!r}.")
        return cls(text, float(weight))

    def __str__(self) -> str:
        return self.place if self.weight == 1 else f"{self.place}:{self.weight:g}"


@dataclass(frozen=True)
class Embedding:
    """A textual inversion and the word that stands for it; None is what its file says."""

    place: str
    token: str | None = None

    @classmethod
    def of(cls, given: Any) -> Embedding:
        """From ``"FILE[:TOKEN]"``, a path, or a (file, token) pair.

        Raises:
            InputError: it is none of these.
        """
        if isinstance(given, Embedding):
            return given
        place, token = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        known = token is None or isinstance(token, str)
        if not isinstance(place, str | os.PathLike) or not os.fspath(place) or not known:
            raise InputError(
                f"an embedding is FILE[:TOKEN] or a (file, token) pair, not {given!r}."
            )
        text = os.fspath(place)
        head, colon, tail = text.rpartition(":")
        # The colon of a drive letter is no separator.
        is_word = bool(colon and head and tail) and not set(tail) & set("/\\")
        if token is None and is_word and not Path(text).exists():
            return cls(head, tail)
        return cls(text, token)

    def __str__(self) -> str:
        return self.place if self.token is None else f"{self.place}:{self.token}"


def several(given: Any, kind: Callable[[Any], Any]) -> list[Any]:
    """``given`` (None, one, or a list) as a list of ``kind``."""
    if given is None:
        return []
    return [kind(each) for each in (given if isinstance(given, list) else [given])]


class Adapters:
    """The LoRAs and embeddings of one pipeline that were loaded by their files.

    Args:
        pipe: the pipeline; its LoRAs are diffusers' and peft's own, and what it loads by itself
            stays beside them.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.loras: dict[str, Lora] = {}
        """By adapter name."""
        self.embeddings: dict[str, Embedding] = {}
        """By word."""
        self._tokens: dict[str, list[str]] = {}
        """Of each embedding, by word."""
        self.ip_adapters: list[str] = []
        """Their files."""

    def add_all(
        self, loras: Iterable[Lora], embeddings: Iterable[Embedding], ip_adapters: list[str]
    ) -> None:
        """Load several of each kind; errors as of each."""
        for embedding in embeddings:
            self.add_embedding(embedding)
        for lora in loras:
            self.add_lora(lora)
        if ip_adapters:
            self.set_ip_adapters(ip_adapters)

    def add_lora(self, lora: Lora, name: str | None = None) -> str:
        """Load a LoRA, or give one of that ``name`` another weight; its name.

        Raises:
            ModelError: it is missing, no LoRA, or of another family.
            InputError: this model takes none.
        """
        if name is None or name not in self.loras:
            name = self._named(name or Path(lora.place).stem)
            self._load(lora, name)
        self.loras[name] = lora
        self._weigh()
        return name

    def remove_lora(self, name: str | None = None) -> None:
        """Take one out, or all.

        Raises:
            InputError: there is none of that name.
        """
        if name is not None and name not in self.loras:
            names = ", ".join(self.loras) or "none"
            raise InputError(f"there is no LoRA {name!r}; loaded: {names}.")
        for each in [name] if name is not None else list(self.loras):
            self.pipe.delete_adapters(each)
            del self.loras[each]
        if not any(self.pipe.get_list_adapters().values()):
            self.pipe.unload_lora_weights()
        else:
            self._weigh()

    def add_embedding(self, embedding: Embedding) -> str:
        """Load a textual inversion; its word.

        Raises:
            ModelError: it is missing, no embedding, or for other text encoders.
            InputError: its word is taken.
        """
        path = find_file(embedding.place, (".safetensors", ".pt", ".bin"))
        tokens = insert_embedding(self.pipe, path, embedding.token)
        self.embeddings[tokens[0]] = embedding
        self._tokens[tokens[0]] = tokens
        return tokens[0]

    def remove_embedding(self, token: str | None = None) -> None:
        """Take one out, or all. Raises ``InputError`` if there is none of that word."""
        if token is not None and token not in self.embeddings:
            words = ", ".join(self.embeddings) or "none"
            raise InputError(f"there is no embedding {token!r}; loaded: {words}.")
        for each in [token] if token is not None else list(self.embeddings):
            remove_embedding(self.pipe, self._tokens.pop(each))
            del self.embeddings[each]

    def set_ip_adapters(self, places: list[str]) -> None:
        """Load IP-Adapters, in the place of those that there are.

        Raises:
            ModelError: one is missing, no IP-Adapter or of another family, or their image encoder
                is not beside them.
        """
        from engine.models.formats.ip_adapters import load_ip_adapters

        load_ip_adapters(
            self.pipe, [find_file(place, (".safetensors", ".bin")) for place in places]
        )
        self.ip_adapters = [os.path.realpath(Path(place).expanduser()) for place in places]

    def recorded(self) -> dict[str, list[str]]:
        """The arguments of ``from_pretrained`` that load the same; kinds without any left out."""
        kinds: dict[str, Iterable[Any]] = {
            "lora": self.loras.values(),
            "embedding": self.embeddings.values(),
        }
        told = {name: [_portable(each) for each in held] for name, held in kinds.items() if held}
        return told | ({"ip_adapter": self.ip_adapters} if self.ip_adapters else {})

    def _named(self, name: str) -> str:
        """A name that peft takes and that is not taken."""
        plain = re.sub(r"\W", "_", name) or "lora"
        taken = self._adapters()
        numbered = (f"{plain}_{number}" for number in range(2, len(taken) + 3))
        return plain if plain not in taken else next(n for n in numbered if n not in taken)

    def _load(self, lora: Lora, name: str) -> None:
        components = {
            each: part
            for each in COMPONENTS
            if (part := getattr(self.pipe, each, None)) is not None
        }
        if not hasattr(self.pipe, "load_lora_weights"):
            raise InputError(f"{type(self.pipe).__name__} takes no LoRAs here.")
        path = find_file(lora.place, (".safetensors",))
        if "unet" not in components:
            self._load_by_diffusers(path, name)
            return
        check_adapter(path, LORA)
        modules, metadata = read_lora(path)
        found, left = matched(modules, metadata, components, path)
        if left:
            some = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
            warnings.warn(
                SoftpaintWarning(
                    f"{len(left)} of {len(modules)} modules of {path} fit nothing in this model: "
                    f"{some}"
                ),
                stacklevel=2,
            )
        try:
            with no_loading_bars(), adding_adapters():
                for each, changes in found.items():
                    part = components[each]
                    state = state_dict_of(part, changes, dtype_of(part))
                    if each == "unet":
                        part.load_lora_adapter(
                            state, prefix=None, adapter_name=name, _pipeline=self.pipe
                        )
                        continue
                    self.pipe.load_lora_into_text_encoder(
                        {f"{each}.{key}": value for key, value in state.items()},
                        None,
                        part,
                        prefix=each,
                        adapter_name=name,
                        _pipeline=self.pipe,
                    )
        except (ValueError, RuntimeError) as error:
            self.pipe.delete_adapters(name)
            raise ModelError(f"{path} could not be loaded: {error}") from error

    def _load_by_diffusers(self, path: Path, name: str) -> None:
        """Load a LoRA of a transformer, whose files' names the pipeline's own loader knows."""
        check_adapter(path, LORA)
        if kind_of(read_header(path)) is None:
            raise ModelError(f"{path} is no LoRA but something else.")
        where: dict[str, Any] = {"weight_name": path.name}
        try:
            read = self.pipe.lora_state_dict(str(path.parent), **where)
            self._check_layers(path, read[0] if isinstance(read, tuple) else read)
            with no_loading_bars(), adding_adapters():
                self.pipe.load_lora_weights(str(path.parent), **where, adapter_name=name)
        except (ValueError, RuntimeError, KeyError, AttributeError, OSError) as error:
            if name in self._adapters():
                self.pipe.delete_adapters(name)
            raise ModelError(
                f"{path} could not be loaded, which is a LoRA of another model: {first_line(error)}"
            ) from error
        if name not in self._adapters():
            raise ModelError(f"{path} has nothing for this model: it is a LoRA of another family.")

    def _check_layers(self, path: Path, state: Mapping[str, Any]) -> None:
        """Raise ``ModelError`` if some of a LoRA's layers (``state``, in diffusers' names) are not
        in the transformer: families share names of layers, and some share sizes.
        """
        start = "transformer."
        names = (_LAYER.split(each)[0] for each in state if each.startswith(start))
        layers = sorted({name.removeprefix(start) for name in names})
        own = {name for name, _ in self.pipe.transformer.named_modules()}
        # Loaded adapters stand where the layers themselves stood.
        own |= {name.removesuffix(".base_layer") for name in own}
        if missing := [each for each in layers if each not in own]:
            raise ModelError(
                f"{path} is a LoRA of another family: {len(missing)} of its {len(layers)} layers "
                f"are not in this model ({missing[0]})."
            )

    def _adapters(self) -> set[str]:
        """The names of all LoRAs that are in the pipeline."""
        return {each for held in self.pipe.get_list_adapters().values() for each in held}

    def _weigh(self) -> None:
        if self.loras:
            weights = [lora.weight for lora in self.loras.values()]
            self.pipe.set_adapters(list(self.loras), weights)


def find_file(place: str, suffixes: tuple[str, ...]) -> Path:
    """The file of an adapter: itself, a folder's only one, or the hub's.

    Raises:
        ModelError: there is none, or several.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        inside = [each for each in sorted(path.iterdir()) if each.suffix in suffixes]
        own = [each for each in inside if each.name == WEIGHTS]
        if len(own or inside) != 1:
            names = ", ".join(each.name for each in inside) or "none"
            raise ModelError(f"{place}: which file is meant? It holds {names}.")
        return (own or inside)[0]
    if path.is_file():
        if path.suffix not in suffixes:
            raise ModelError(f"{place} is no {' or '.join(suffixes)} file.")
        return path
    found = _ON_HUB.fullmatch(place)
    if found is None or (path.suffix in suffixes and found["file"] is None):
        raise ModelError(f"there is no file {place}.")
    name = found["file"] or WEIGHTS
    path = guarded(lambda: hub_file(found["repository"], name), place)
    return Path(path)


def _portable(held: Lora | Embedding) -> str:
    """As it is recorded: a file by its absolute path."""
    there = Path(held.place).expanduser()
    place = os.path.realpath(there) if there.exists() else held.place
    return str(type(held)(place, *(v for k, v in vars(held).items() if k != "place")))

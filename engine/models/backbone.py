"""A loaded model, as the engine asks it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import InputError, ModelError, SoftpaintWarning
from engine.lru import LRU
from engine.models.family import FAMILIES, Family, family_of
from engine.models.ip_adapter import encode_images
from engine.models.network import KINDS
from engine.models.previews import Previewer
from engine.models.state import contents, dtype_of
from engine.models.text import PLAIN, Prompt, Reading
from engine.models.unheard import warnings_of
from engine.models.weighed import Choices

if TYPE_CHECKING:
    import os

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from engine.models.network import Network
    from engine.picture.geometry import Size
    from engine.types import Checkpoint, Conditioning

TEXTS = 32
"""Encoded prompts that a model remembers; at most 0.7 MB each for SDXL in float16."""
PICTURES = 32
"""Pictures whose latents are remembered: at most 0.3 MB each at 1024 px."""
ROUND_TRIPS = 8
"""Pictures there and back through the VAE that are remembered: 3 MB each at 1024 px."""

UNUSED = {"controlnet": "ControlNet", "adapter": "T2I-Adapter"}
"""Parts of diffusers' pipelines that steer them and not the engine."""


class Backbone:
    """A loaded model: text, pixels and networks. It changes nothing in the pipeline it wraps.

    Args:
        pipe: the loaded pipeline.
        family: its family; ``networks``: by kind, the pipeline's own first.
    """

    def __init__(self, pipe: Any, family: Family, networks: Sequence[Network]) -> None:
        self.pipe = pipe
        self.family = family
        self.networks = {network.kind: network for network in networks}
        self.checkpoint: Checkpoint | None = None
        """What is known of the model under its name, if it was loaded by one."""
        self.defaults: Mapping[str, Any] = {}
        """Settings of an edit with this model, where it does not say."""
        self.others: dict[str, tuple[Backbone, Mapping[str, Any]]] = {}
        """Models that stages of an edit may name, with the settings of their stages."""
        self.notes: tuple[str, ...] = ()
        """What was found out or decided when it was loaded, for the user: a sentence each."""
        self.text = family.text(pipe)
        self.codec = family.codec(pipe)
        self._own = networks[0].kind
        self._controlnets: dict[str, Any] = {}
        self._texts: LRU[Hashable, tuple[Conditioning, Conditioning | None]] = LRU(TEXTS)
        self._pictures: LRU[Hashable, torch.Tensor] = LRU(PICTURES)
        self._round_trips: LRU[Hashable, NDArray[np.uint8]] = LRU(ROUND_TRIPS)
        self._lent: Hashable = None
        """The main network's state that the others have borrowed from."""
        self.previewer = Previewer(self)
        self.choices = Choices()
        """The sets of its LoRAs that rows of its calls have asked for: see ``edit/chosen.py``."""

    @property
    def main(self) -> Network:
        """The network of the pipeline's own denoiser."""
        return self.networks[self._own]

    def network(self, kind: str) -> Network:
        """The network of a ``kind``, of :data:`engine.models.network.KINDS`.

        Raises:
            InputError: it is not loaded.
        """
        if kind not in self.networks:
            needed = KINDS[kind]
            if needed.families and self.family.name not in needed.families:
                raise InputError(
                    f"this strategy needs {needed.what}, which {self.family.description} has not; "
                    "differential is for every model, as the stage of remove too "
                    "(stage=differential)."
                )
            raise InputError(
                f"this strategy needs {needed.what}, which is not loaded; give {needed.how}"
            )
        network = self.networks[kind]
        if network is not self.main:
            network.borrow(self.main)
        return network

    # Sizes -------------------------------------------------------------------------------------

    @property
    def cell(self) -> int:
        """Pixels per latent, along one side."""
        return self.codec.cell

    @property
    def align(self) -> int:
        """Pictures are padded to a multiple of this many pixels."""
        return self.cell * max(network.down_factor for network in self.networks.values())

    @property
    def native_size(self) -> int:
        """Side in px of the square pictures that the model was trained on."""
        return self.cell * self.main.sample_size

    @property
    def latent_channels(self) -> int:
        return self.codec.channels

    @property
    def device(self) -> torch.device:
        import torch

        where: torch.device = next(self.main.module.parameters()).device
        offloaded = where.type == "meta" or (
            where.type == "cpu" and torch.accelerator.is_available()
        )
        # diffusers' own property knows where offloaded models run; it walks all modules.
        return getattr(self.pipe, "_execution_device", where) if offloaded else where

    def check_devices(self) -> None:
        """Raise ``ModelError`` where the model's parts lie on several devices and nothing moves
        them together when they are called, as offloading does.
        """
        names = ("vae", *(n for n in getattr(self.pipe, "components", {}) if "text_encoder" in n))
        parts = {name: getattr(self.pipe, name, None) for name in names}
        parts |= {self.family.denoiser: self.main.module}
        others = (each for each in self.networks.values() if each is not self.main)
        parts |= {KINDS[each.kind].what: each.module for each in others}
        where = {name: _stays_on(part) for name, part in parts.items()}
        places = {name: device for name, device in where.items() if device is not None}
        if len(set(places.values())) > 1:
            told = ", ".join(f"{name} on {device}" for name, device in places.items())
            raise ModelError(
                f"the model's parts are on several devices ({told}): move them to one, "
                f"pipe.to({str(self.device)!r}), or let diffusers offload them."
            )

    @property
    def dtype(self) -> torch.dtype:
        return dtype_of(self.main.module)

    @property
    def background_fill(self) -> str:
        """The ``prefill`` that knows best what stands behind things: the checkpoint's own, or what
        surrounds the hole.
        """
        return self.checkpoint.background_fill if self.checkpoint else "patch"

    @property
    def judge(self) -> str:
        """Name of the judge that knows what this model's pictures show; empty for none."""
        return self.checkpoint.judge if self.checkpoint else ""

    # Controls ----------------------------------------------------------------------------------

    @property
    def unet_config(self) -> Any:
        """The networks' configuration, the same but for the input channels; None without one."""
        return getattr(self.main.module, "config", None)

    def controlnet(self, model: str | os.PathLike[str]) -> Any:
        """The ControlNet in a folder, behind a hub id or in a file; loaded once.

        Raises:
            ModelError: there is none, or it is made for another family.
        """
        from engine.models.formats.controlnets import load_controlnet

        if str(model) not in self._controlnets:
            self._controlnets[str(model)] = load_controlnet(
                model, self.main.module, self.dtype, self.device, self.family.controlnets
            )
        return self._controlnets[str(model)]

    @property
    def ip_adapters(self) -> int:
        """How many IP-Adapters ``pipe.load_ip_adapter`` has loaded."""
        return self.main.adapters

    def encode_references(
        self, images: Sequence[Image.Image], adapter: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative and positive embeddings (1 n ... each) of ``images`` for an IP-Adapter."""
        return encode_images(self.pipe, images, adapter)

    # Text and pixels ---------------------------------------------------------------------------

    def encode_prompt(
        self,
        prompt: str,
        negative_prompt: str | None,
        *,
        guided: bool,
        size: Size,
        images: int = 1,
        reading: Reading = PLAIN,
    ) -> tuple[Conditioning, Conditioning | None]:
        """Conditional and (if ``guided``) unconditional conditioning, ``images`` rows each; the
        last :data:`TEXTS` are remembered.

        ``size``: of the padded picture.
        """
        asked = Prompt(prompt, negative_prompt, guided, size, images, reading)
        # The networks' state too: layers remember what they made of a text, by the text itself.
        key = (asked, self.device, self.fingerprint())

        def make() -> tuple[Conditioning, Conditioning | None]:
            heard = negative_prompt if guided else None
            for told in warnings_of(self.unheard(prompt, heard, reading.syntax)):
                warnings.warn(told, stacklevel=4)
            cond, uncond = self.text.encode(asked, self.device)
            # Text encoders may be kept in another type than the network, as the VAE may.
            dtype = self.dtype
            if not dtype.is_floating_point or dtype.itemsize < 2:  # stored packed
                return cond, uncond
            return cond.to(dtype), None if uncond is None else uncond.to(dtype)

        return self._texts.get(key, make)

    def unheard(
        self, prompt: str, negative_prompt: str | None, syntax: str = "plain"
    ) -> dict[str, dict[str, list[str]]]:
        """What of the texts the model does not read, or reads as plain words."""
        return self.text.unheard({"prompt": prompt, "negative_prompt": negative_prompt}, syntax)

    def encode(
        self,
        pixels: torch.Tensor,
        *,
        generator: torch.Generator | None = None,
        sample: bool = False,
    ) -> torch.Tensor:
        """Latents (b c h/cell w/cell, unit scale) of ``pixels`` (b 3 h w in [-1, 1]).

        The mode of the posterior, which is remembered for the last :data:`PICTURES`, or a draw from
        it with ``generator`` if ``sample``.
        """
        where = (self.device, self.main.latents_dtype)
        if sample:
            return self.codec.encode(pixels, *where, generator=generator, sample=True)
        key = (contents(pixels), where, self.codec.state())
        return self._pictures.get(key, lambda: self.codec.encode(pixels, *where))

    def decode(self, latents: torch.Tensor, *, parity: bool = False) -> torch.Tensor:
        """Pixels (b 3 h w, float, about [-1, 1]) of ``latents`` (b c h w).

        ``parity``: to the bits of diffusers' pipelines.
        """
        return self.codec.decode(latents, parity=parity)

    def round_trip(
        self, latents: torch.Tensor, form: Hashable, make: Callable[[], NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        """What ``make()`` gives: pixels (H W 3) of a picture's own ``latents``, brought to a
        ``form``. The last :data:`ROUND_TRIPS` are remembered: one picture is edited many times.
        """
        key = (contents(latents), form, self.codec.state())
        return self._round_trips.get(key, make)

    # What is remembered ------------------------------------------------------------------------

    def forget(self) -> None:
        """Encode every prompt and picture anew."""
        self._texts.clear()
        self._pictures.clear()
        self._round_trips.clear()
        self.previewer.forget()

    def fingerprint(self) -> Hashable:
        """A value that changes with the model: its weights, its adapters and their scales."""
        own = self.main.state()
        others = [each for each in self.networks.values() if each is not self.main]
        if own != self._lent:  # what they borrow is part of their state
            for network in others:
                network.borrow(self.main)
            self._lent = own
        beside = tuple(model.fingerprint() for model, _ in self.others.values())
        return self.text.state(), self.codec.state(), own, *(e.state() for e in others), *beside


def _stays_on(part: Any) -> torch.device | None:
    """Where a module is; None for none, and for one that is moved when it is called."""
    parameters = getattr(part, "parameters", None)
    moved = any(hasattr(part, name) for name in ("_hf_hook", "_diffusers_hook", "hf_device_map"))
    if parameters is None or moved:
        return None
    first = next(iter(parameters()), None)
    return None if first is None else first.device


def backbone_for(pipe: Any, inpaint_module: Any = None) -> Backbone:
    """A loaded pipeline as the engine asks it. Nothing in ``pipe`` is changed.

    ``inpaint_module``: the denoiser of an inpainting checkpoint of the same family, beside it.

    Raises:
        ModelError: it is no pipeline, or one of a family that is not supported, or a part that
            every edit needs is missing; or the module is of another family.
    """
    named = any(type(pipe).__name__ in each.pipelines for each in FAMILIES)
    if not named and not hasattr(pipe, "components"):
        raise ModelError(f"a loaded diffusers pipeline is needed, not {type(pipe).__name__}.")
    parts = getattr(pipe, "components", vars(pipe))  # other packages' pipelines may be plain
    _check_bare({**parts, "inpaint_unet": inpaint_module})
    family = family_of(pipe)
    for part in (family.denoiser, "vae", "scheduler"):
        if getattr(pipe, part, pipe) is None:  # a codec may do without a VAE
            raise ModelError(f"this {type(pipe).__name__} has no {part}, and no edit runs without.")
    try:
        networks = [family.network(getattr(pipe, family.denoiser))]
    except ModelError as error:
        raise ModelError(f"{type(pipe).__name__} is not supported: {error}") from None
    if inpaint_module is not None:
        second = family.network(inpaint_module)
        networks[0].check_fits(second)
        types = [dtype_of(each.module) for each in (*networks, second)]
        if types[0] != types[1]:
            raise ModelError(
                f"the inpainting network is in {types[1]} and the model's own in {types[0]}: give "
                "both in one type."
            )
        networks.append(second)
    backbone = Backbone(pipe, family, networks)
    _say_what_is_left_out(pipe)
    given, made = networks[0].latent_channels, backbone.latent_channels
    if given is not None and given != made:
        raise ModelError(
            f"this model's {family.denoiser} denoises latents of {given} channels, and its VAE "
            f"makes {made}: one of them is another model's."
        )
    backbone.defaults = family.defaults(pipe)
    if "base" not in backbone.networks:
        kind = KINDS[backbone.main.kind]
        backbone.defaults = {**backbone.defaults, "strategy": kind.strategy}
        backbone.notes = (f"its only network is {kind.what}: the strategy is {kind.strategy}",)
    return backbone


def _check_bare(parts: Mapping[str, Any]) -> None:
    """Raise ``ModelError`` for a model that is wrapped so that its config is out of sight, as
    ``torch.nn.DataParallel`` does.
    """
    models = ("unet", "transformer", "vae", "text_encoder", "inpaint_unet")
    for name, part in parts.items():
        if name.startswith(models) and hasattr(part, "module") and not hasattr(part, "config"):
            raise ModelError(
                f"the {name} is wrapped in {type(part).__name__}, which tells nothing of it: give "
                "its .module."
            )


def _say_what_is_left_out(pipe: Any) -> None:
    """Warn of parts of a pipeline that take no part in edits."""
    for name, what in UNUSED.items():
        if getattr(pipe, name, None) is not None:
            warnings.warn(
                f"the pipeline's own {what} takes no part in edits; give it to the edit: "
                "controls=[Control(...)].",
                SoftpaintWarning,
                stacklevel=3,
            )

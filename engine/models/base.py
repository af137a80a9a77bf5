"""What the engine asks of a model family, and what UNet families have in common."""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from engine.errors import InputError
from engine.models.ip_adapter import encode_images, image_projections, lend_adapters
from engine.models.previews import Previewer
from engine.models.remembered import Remembered
from engine.models.speed.forwards import in_fours, is_compiled, parts, replaced_forwards
from engine.models.speed.text_projections import TextProjections
from engine.models.speed.upsampling import subpixel_upsampling
from engine.models.unheard import unheard, warnings_of

if TYPE_CHECKING:
    import os

    import torch
    from PIL import Image

    from engine.types import Checkpoint, Conditioning

TEXT = "encoder_hidden_states"
TEXT_MASK = "encoder_attention_mask"
"""The UNets' names for embedded prompts (b n d), and for the mask (b n) of those that are padded.
"""
ADDED = ("text_embeds", "time_ids")
"""The conditioning that diffusers' UNets take inside ``added_cond_kwargs``. IP-Adapters' comes as
``image_embeds.0``, ``ip_adapter_masks.0`` and so on, one for each adapter."""


TEXTS = 32
"""Encoded prompts that a model remembers; at most 0.7 MB each for SDXL in float16."""

PICTURES = 32
"""Pictures whose latents are remembered: at most 0.3 MB each at 1024 px."""
MAPS = 32
"""Maps of the first level's width that a UNet's forward holds at once, with a reserve: diffusers'
SDXL holds 16, SD 1.5 26 (all tensors of a forward counted, attention without its scores)."""
SETTINGS = (
    *("scaling", "_disable_adapters", "_active_adapter", "merged_adapters"),  # peft's layers
    *("processor", "scale"),  # attention, IP-Adapters'
)
"""What a module's output depends on beside its weights."""


class Network:
    """A UNet as the loop calls it. Jobs with the same network and shapes share one call.

    On a CPU a row's result does not depend on what shares the call: the products of few rows, of
    which matrix libraries make other bits, are made four rows at a time. (Measured in float32 on
    calls of 2 to 15 rows, on one and two threads; a call of one row, of an unguided edit alone,
    differs by 2e-6. It costs a call of two rows 1%.)

    Args:
        unet: diffusers' module.
        parity: calls to the bits of diffusers' pipelines instead.
    """

    def __init__(self, unet: Any, *, parity: bool = False) -> None:
        self.unet = unet
        self.parity = parity
        self._projections = TextProjections(unet)

    @cached_property
    def like_diffusers(self) -> Network:
        """The same network, called to the bits of diffusers' pipelines."""
        return Network(self.unet, parity=True)

    @cached_property
    def _embedders(self) -> list[Any]:
        """Layers that see a row for each picture and nothing of its pixels."""
        return [
            module
            for name, module in self.unet.named_modules()
            if name in {"time_embedding", "add_embedding"} or name.endswith("time_emb_proj")
        ]

    @property
    def in_channels(self) -> int:
        return int(self.unet.config.in_channels)

    @property
    def embeds_guidance(self) -> bool:
        """A distilled network that is told the guidance scale and never runs unguided."""
        return getattr(self.unet.config, "time_cond_proj_dim", None) is not None

    @property
    def down_factor(self) -> int:
        """Latent sizes are best multiples of this: what the UNet's own downsampling halves."""
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

    def cells_at_hand(self) -> int:
        """Latent positions (rows x h x w) of a forward that fit into the memory that is free now,
        as far as that is known: on CUDA, where it is the device's free memory and what torch keeps
        for itself.
        """
        import torch

        parameter = next(self.unet.parameters())
        if parameter.device.type != "cuda":
            return sys.maxsize
        free, _ = torch.cuda.mem_get_info(parameter.device)
        kept = torch.cuda.memory_reserved(parameter.device)
        free += kept - torch.cuda.memory_allocated(parameter.device)
        width = self.unet.config.block_out_channels[0]
        return int(free // (MAPS * width * parameter.element_size()))

    def predict(
        self,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        residuals: Mapping[str, Any],
    ) -> torch.Tensor:
        """One forward. ``sample``: B c h w, ``timesteps``: B, conditioning rows: B; gives B 4 h w.

        ``residuals``: what controls add, by the UNet's argument names.
        """
        tensors, text = conditioning.tensors, conditioning.text
        added: dict[str, Any] = {key: tensors[key] for key in ADDED if key in tensors}
        if embeds := _numbered(tensors, "image_embeds"):
            added["image_embeds"] = embeds
        masks = _numbered(tensors, "ip_adapter_masks")
        with replaced_forwards(self.unet, self._changes(sample, text)):
            prediction: torch.Tensor = self.unet(
                sample,
                timesteps,
                encoder_hidden_states=text,
                encoder_attention_mask=tensors.get(TEXT_MASK),
                timestep_cond=tensors.get("timestep_cond"),
                added_cond_kwargs=added or None,
                cross_attention_kwargs={"ip_adapter_masks": masks} if masks else None,
                return_dict=False,
                **residuals,
            )[0]
        return prediction

    def _changes(
        self, sample: torch.Tensor, text: torch.Tensor
    ) -> Iterator[tuple[Any, Callable[..., Any]]]:
        """Layers that this call computes in another way."""
        if is_compiled(self.unet):
            return
        yield from self._projections.changes(text)
        if not (self.parity or len(sample) % 4 == 0 or sample.device.type != "cpu"):
            for each in self._embedders:
                yield each, in_fours(each.forward)


def _numbered(tensors: Mapping[str, torch.Tensor], name: str) -> list[torch.Tensor]:
    """``name.0``, ``name.1``, ... as a list."""
    keys = takewhile(tensors.__contains__, (f"{name}.{i}" for i in count()))
    return [tensors[key] for key in keys]


class Backbone(ABC):
    """A loaded model: text, pixels and networks. It changes nothing in the pipeline it wraps."""

    family: str
    checkpoint: Checkpoint | None = None
    """What is known of the model under its name, if it was loaded by one."""

    def __init__(self, pipe: Any, networks: Mapping[str, Network]) -> None:
        self.pipe = pipe
        self.networks = dict(networks)
        self._controlnets: dict[str, Any] = {}
        self._texts: dict[Any, tuple[Conditioning, Conditioning | None]] = {}
        self._pictures = Remembered(PICTURES)
        self._vae_state: tuple[Any, ...] = ()
        self._lent_adapters: Any = None
        self.previewer = Previewer(self)

    # Sizes -------------------------------------------------------------------------------------

    @property
    def cell(self) -> int:
        """Pixels per latent, along one side."""
        return int(2 ** (len(self.pipe.vae.config.block_out_channels) - 1))

    @property
    def align(self) -> int:
        """Pictures are padded to a multiple of this many pixels."""
        return self.cell * max(network.down_factor for network in self.networks.values())

    @property
    def native_size(self) -> int:
        """Side in px of the square pictures that the model was trained on."""
        side = self.unet_config.sample_size
        return self.cell * int(min(side) if isinstance(side, list | tuple) else side)

    @property
    def latent_channels(self) -> int:
        return int(self.pipe.vae.config.latent_channels)

    @property
    def device(self) -> torch.device:
        import torch

        unet = next(iter(self.networks.values())).unet
        where: torch.device = next(unet.parameters()).device
        offloaded = where.type == "meta" or (
            where.type == "cpu" and torch.accelerator.is_available()
        )
        if offloaded:
            # diffusers' own property knows where offloaded models run; it walks all modules.
            where = self.pipe._execution_device  # noqa: SLF001
        return where

    @property
    def dtype(self) -> torch.dtype:
        return _dtype(next(iter(self.networks.values())).unet)

    @property
    def background_fill(self) -> str:
        """The ``prefill`` that knows best what stands behind things: the checkpoint's own, or what
        surrounds the hole.
        """
        return self.checkpoint.background_fill if self.checkpoint else "patch"

    def network(self, kind: str) -> Network:
        """The ``"base"`` or ``"inpaint"`` network. Raises ``InputError`` if it is not loaded."""
        if kind not in self.networks:
            what, how = (
                ("the 9-channel inpainting UNet", "inpaint_model=")
                if kind == "inpaint"
                else ("the 4-channel base UNet", "a text-to-image checkpoint as model=")
            )
            raise InputError(f"this strategy needs {what}, which is not loaded; give {how}")
        network = self.networks[kind]
        if network.unet is not self.pipe.unet:
            lent = self._lent_adapters
            self._lent_adapters = lend_adapters(self.pipe.unet, network.unet, lent)
        return network

    # Controls ----------------------------------------------------------------------------------

    @property
    def unet_config(self) -> Any:
        """The networks' configuration: the same but for the input channels."""
        return next(iter(self.networks.values())).unet.config

    def controlnet(self, model: str | os.PathLike[str]) -> Any:
        """The ControlNet in a folder, behind a hub id or in a file; loaded once.

        Raises:
            ModelError: there is none, or it is made for another family.
        """
        from engine.models.formats.loading import load_controlnet

        if str(model) not in self._controlnets:
            unet = next(iter(self.networks.values())).unet
            self._controlnets[str(model)] = load_controlnet(model, unet, self.dtype, self.device)
        return self._controlnets[str(model)]

    @property
    def ip_adapters(self) -> int:
        """How many IP-Adapters ``pipe.load_ip_adapter`` has loaded."""
        projections = image_projections(self.pipe.unet)
        return 0 if projections is None else int(projections.num_ip_adapters)

    def encode_references(
        self, images: Sequence[Image.Image], adapter: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative and positive embeddings (1 n ... each) of ``images`` for an IP-Adapter."""
        return encode_images(self.pipe, images, adapter)

    # Text --------------------------------------------------------------------------------------

    def encode_prompt(
        self,
        prompt: str,
        negative_prompt: str | None,
        *,
        guided: bool,
        size: tuple[int, int],
        images: int = 1,
    ) -> tuple[Conditioning, Conditioning | None]:
        """Conditional and (if ``guided``) unconditional conditioning, ``images`` rows each; the
        last :data:`TEXTS` are remembered.

        ``size``: (height, width) in pixels of the padded picture.
        """
        key = (prompt, negative_prompt, guided, size, images, self.device, self._text_state())
        if key not in self._texts:
            told = self.unheard(prompt, negative_prompt if guided else None)
            for each in warnings_of(told):
                warnings.warn(each, stacklevel=2)
            self._texts[key] = self._encode_prompt(
                prompt, negative_prompt, guided=guided, size=size, images=images
            )
            if len(self._texts) > TEXTS:
                del self._texts[next(iter(self._texts))]
        self._texts[key] = self._texts.pop(key)  # the one used last stands last
        return self._texts[key]

    def unheard(self, prompt: str, negative_prompt: str | None) -> dict[str, dict[str, list[str]]]:
        """What of the texts the model does not read, or reads as plain words: see
        :func:`engine.models.unheard.unheard`.
        """
        names = ("tokenizer", "tokenizer_2", "tokenizer_3")
        texts = {"prompt": prompt, "negative_prompt": negative_prompt}
        return unheard(texts, (getattr(self.pipe, name, None) for name in names))

    def forget(self) -> None:
        """Encode every prompt and picture anew."""
        self._texts.clear()
        self._pictures.clear()
        self.previewer.forget()

    @abstractmethod
    def _encode_prompt(
        self,
        prompt: str,
        negative_prompt: str | None,
        *,
        guided: bool,
        size: tuple[int, int],
        images: int,
    ) -> tuple[Conditioning, Conditioning | None]:
        """:meth:`encode_prompt`, anew."""

    def _text_state(self) -> tuple[Any, ...]:
        tokens, encoders = (
            [part for each in ("", "_2") if (part := getattr(self.pipe, name + each, None))]
            for name in ("tokenizer", "text_encoder")
        )
        settings = sorted((k, repr(v)) for k, v in self.pipe.config.items() if k[0] != "_")
        return *map(len, tokens), *settings, *map(_weights_state, encoders)

    def fingerprint(self) -> tuple[Any, ...]:
        """A value that changes with the model: its weights, its adapters and their scales."""
        unets = [network.unet for network in self.networks.values()]
        return *self._text_state(), *map(_weights_state, [self.pipe.vae, *unets])

    # Pixels ------------------------------------------------------------------------------------

    @contextmanager
    def _vae_precision(self) -> Iterator[torch.dtype]:
        """Run an fp16 VAE that asks for it (``force_upcast``) in float32, and restore it after."""
        import torch

        vae = self.pipe.vae
        before = _dtype(vae)
        if before == torch.float16 and vae.config.force_upcast:
            vae.to(torch.float32)
            try:
                yield torch.float32
            finally:
                vae.to(before)
        else:
            yield before

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
        if not sample:
            state = (self.device, self.dtype, _weights_state(self.pipe.vae))
            if state != self._vae_state:
                self._pictures.clear()
                self._vae_state = state
            return self._pictures.get(pixels, self._encode)
        return self._encode(pixels, generator=generator, sample=True)

    def _encode(
        self,
        pixels: torch.Tensor,
        *,
        generator: torch.Generator | None = None,
        sample: bool = False,
    ) -> torch.Tensor:
        with self._vae_precision() as dtype:
            pixels = pixels.to(self.device, dtype)
            # A draw is for diffusers' sake: it has the last bits of diffusers' own layout.
            laid = pixels if sample else _laid_out(pixels)
            posterior = self.pipe.vae.encode(laid).latent_dist
            latents: torch.Tensor = posterior.sample(generator) if sample else posterior.mode()
        return self._scale_latents(latents.to(self.dtype).contiguous())

    def decode(self, latents: torch.Tensor, *, parity: bool = False) -> torch.Tensor:
        """Pixels (b 3 h w, float, about [-1, 1]) of ``latents`` (b c h w).

        ``parity``: to the bits of diffusers' pipelines.
        """
        with self._vae_precision() as dtype:
            unscaled = self._unscale_latents(latents.to(dtype))
            quick = unscaled.device.type == "cpu" and not parity
            with subpixel_upsampling(self.pipe.vae) if quick else nullcontext():
                laid = unscaled if parity else _laid_out(unscaled)
                pixels: torch.Tensor = self.pipe.vae.decode(laid, return_dict=False)[0]
        return pixels

    def _scale_latents(self, latents: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.pipe.vae.config.scaling_factor * latents
        return scaled

    def _unscale_latents(self, latents: torch.Tensor) -> torch.Tensor:
        unscaled: torch.Tensor = latents / self.pipe.vae.config.scaling_factor
        return unscaled

    def image_processors(self) -> tuple[Any, Any]:
        """Diffusers' own processors for pictures and for masks, as its inpainting pipelines
        make them.
        """
        from diffusers.image_processor import VaeImageProcessor

        return VaeImageProcessor(vae_scale_factor=self.cell), VaeImageProcessor(
            vae_scale_factor=self.cell,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )

    def control_image_processor(self) -> Any:
        """Diffusers' own processor for control images, as its ControlNet pipelines make it."""
        from diffusers.image_processor import VaeImageProcessor

        return VaeImageProcessor(
            vae_scale_factor=self.cell, do_convert_rgb=True, do_normalize=False
        )

    def with_guidance(self, conditioning: Conditioning, scale: float) -> Conditioning:
        """``conditioning`` for networks that embed their guidance ``scale``."""
        import torch

        unet = next(iter(self.networks.values())).unet
        weights = torch.tensor(scale - 1).repeat(conditioning.rows)
        embedded: torch.Tensor = self.pipe.get_guidance_scale_embedding(
            weights, embedding_dim=unet.config.time_cond_proj_dim
        )
        return conditioning.adding({"timestep_cond": embedded.to(self.device, self.dtype)})


def _laid_out(images: torch.Tensor) -> torch.Tensor:
    """``images`` (b c h w) in the layout that their device's convolutions like best whatever the
    weights' is. On CPUs that is channels last, an eighth faster in the pocket's VAE; the results
    differ in the last bits. Elsewhere the weights decide: ``optimise("channels-last")``.
    """
    import torch

    if images.device.type != "cpu":
        return images
    return images.contiguous(memory_format=torch.channels_last)


def _weights_state(module: Any) -> int:
    """A hash that changes when a module's weights, adapters or attention processors do. Weights
    that offloading moves about count by who they are, not by where.
    """
    every = [vars(each) for each in parts(module)]
    moves = any("_hf_hook" in each for each in every)
    weights = [
        (id(weight), weight._version, 0 if moves else weight.data_ptr())  # noqa: SLF001
        for each in every
        for weight in each["_parameters"].values()
        if weight is not None
    ]
    settings = [
        (key, id(each[key]) if key == "processor" else repr(each[key]))
        for each in every
        for key in SETTINGS
        if key in each
    ]
    return hash((*weights, *settings))


def _dtype(module: Any) -> torch.dtype:
    """Diffusers' ``module.dtype``, which walks all layers, looked up once while the first weight's
    type stays.
    """
    first = next(module.parameters()).dtype
    known = _DTYPES.get(module)
    if known is None or known[0] != first:
        known = _DTYPES[module] = first, module.dtype
    return known[1]


_DTYPES: WeakKeyDictionary[Any, tuple[torch.dtype, torch.dtype]] = WeakKeyDictionary()

"""Pixels to latents and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from engine.models.speed.upsampling import subpixel_upsampling
from engine.models.state import dtype_of, weights_state

if TYPE_CHECKING:
    import torch

    from engine.picture.geometry import Size

WHOLE = 3.0
"""Sides of a picture that a VAE takes as a whole, over the side that the model was trained on."""


class Codec(ABC):
    """A family's VAE. Scale and shift of the latents, and any other shape that the module has them
    in, are its own affair: outside they are b c h w, of the scale that the denoiser takes.

    Args:
        pipe: the loaded pipeline. Its parts are looked up at every call: they may be exchanged.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @property
    @abstractmethod
    def cell(self) -> int:
        """Pixels per latent, along one side."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Of the latents."""

    @abstractmethod
    def encode(
        self,
        pixels: torch.Tensor,
        device: torch.device,
        dtype: torch.dtype,
        *,
        generator: torch.Generator | None = None,
        sample: bool = False,
    ) -> torch.Tensor:
        """Latents (b c h/cell w/cell) of ``pixels`` (b 3 h w in [-1, 1]), on ``device`` as
        ``dtype``: the most likely ones, or a draw with ``generator`` if ``sample``.
        """

    @abstractmethod
    def decode(self, latents: torch.Tensor, *, parity: bool = False) -> torch.Tensor:
        """Pixels (b 3 h w, float, about [-1, 1]) of ``latents`` (b c h w).

        ``parity``: to the bits of diffusers' pipelines.
        """

    def in_tiles(self, size: Size, native: int) -> AbstractContextManager[None]:
        """Let a picture of ``size`` that is far larger than the side ``native`` go
        through in overlapping tiles, where the codec can.
        """
        return nullcontext()

    @abstractmethod
    def state(self) -> Hashable:
        """A value that changes with its weights."""


class KLCodec(Codec):
    """Diffusers' ``AutoencoderKL``, ``pipe.vae``: scale, shift or per-channel statistics from its
    config.
    """

    @property
    def cell(self) -> int:
        return int(2 ** (len(self.pipe.vae.config.block_out_channels) - 1))

    @property
    def channels(self) -> int:
        return int(self.pipe.vae.config.latent_channels)

    def state(self) -> Hashable:
        return weights_state(self.pipe.vae, fused=False)  # no LoRA is of a VAE

    def encode(
        self,
        pixels: torch.Tensor,
        device: torch.device,
        dtype: torch.dtype,
        *,
        generator: torch.Generator | None = None,
        sample: bool = False,
    ) -> torch.Tensor:
        with self.precision() as precise:
            pixels = pixels.to(device, precise)
            # A draw is for diffusers' sake: it has the last bits of diffusers' own layout.
            laid = pixels if sample else _laid_out(pixels)
            latents = self._encoded(laid, generator, sample=sample)
        return self._scaled(latents.to(dtype).contiguous())

    def _encoded(self, pixels: torch.Tensor, generator: Any, *, sample: bool) -> torch.Tensor:
        """The VAE's own latents, before scale and shift."""
        posterior = self.pipe.vae.encode(pixels).latent_dist
        latents: torch.Tensor = posterior.sample(generator) if sample else posterior.mode()
        return latents

    def decode(self, latents: torch.Tensor, *, parity: bool = False) -> torch.Tensor:
        with self.precision() as dtype:
            own = self._unscaled_by_pipelines if parity else self._unscaled
            return self._decoded(own(latents.to(dtype)), parity=parity)

    def learning(self, latents: torch.Tensor) -> torch.Tensor:
        """As :meth:`decode`, by diffusers' own layers alone: gradients reach their weights."""
        with self.precision() as dtype:
            return self._decoded(self._unscaled(latents.to(dtype)), parity=True)

    def _decoded(self, latents: torch.Tensor, *, parity: bool) -> torch.Tensor:
        """Pixels of the VAE's own latents."""
        quick = latents.device.type == "cpu" and not parity
        with subpixel_upsampling(self.pipe.vae) if quick else nullcontext():
            laid = latents if parity else _laid_out(latents)
            pixels: torch.Tensor = self.pipe.vae.decode(laid, return_dict=False)[0]
        return pixels

    @contextmanager
    def in_tiles(self, size: Size, native: int) -> Iterator[None]:
        """Diffusers' own tiling beyond :data:`WHOLE` times ``native``; what was set before is
        restored.
        """
        vae, (width, height) = self.pipe.vae, size
        tiled = height * width > (WHOLE * native) ** 2 and hasattr(vae, "enable_tiling")
        if not tiled or vae.use_tiling:
            yield
            return
        vae.enable_tiling()
        try:
            yield
        finally:
            vae.disable_tiling()

    @contextmanager
    def precision(self) -> Iterator[torch.dtype]:
        """Run an fp16 VAE that asks for it (``force_upcast``) in float32, and restore it after."""
        import torch

        vae = self.pipe.vae
        before = dtype_of(vae)
        if before == torch.float16 and getattr(vae.config, "force_upcast", False):
            vae.to(torch.float32)
            try:
                yield torch.float32
            finally:
                vae.to(before)
        else:
            yield before

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        factor = self.pipe.vae.config.scaling_factor
        if (statistics := self._statistics(latents)) is not None:
            mean, std = statistics
            standard: torch.Tensor = (latents - mean) * factor / std
            return standard
        shift = getattr(self.pipe.vae.config, "shift_factor", None)
        scaled: torch.Tensor = factor * (latents if shift is None else latents - shift)
        return scaled

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        factor = self.pipe.vae.config.scaling_factor
        if (statistics := self._statistics(latents)) is not None:
            mean, std = statistics
            own: torch.Tensor = latents * std / factor + mean
            return own
        shift = getattr(self.pipe.vae.config, "shift_factor", None)
        unscaled: torch.Tensor = latents / factor
        return unscaled if shift is None else unscaled + shift

    def _unscaled_by_pipelines(self, latents: torch.Tensor) -> torch.Tensor:
        """What diffusers' inpainting pipelines make of latents before they decode them."""
        return self._unscaled(latents)

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Per-channel mean and deviation, for checkpoints (Playground 2.5) that carry them."""
        import torch

        config = self.pipe.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return None
        mean, std = (torch.tensor(v).view(1, -1, 1, 1).to(like) for v in (mean, std))
        return mean, std


class TinyCodec(KLCodec):
    """Diffusers' ``AutoencoderTiny`` in the VAE's place: small and quick, with losses that show. It
    has no distribution to draw latents from.
    """

    @property
    def cell(self) -> int:
        return int(2 ** (len(self.pipe.vae.config.encoder_block_out_channels) - 1))

    def _encoded(self, pixels: torch.Tensor, generator: Any, *, sample: bool) -> torch.Tensor:
        latents: torch.Tensor = self.pipe.vae.encode(pixels).latents
        return latents


def codec_of(pipe: Any) -> KLCodec:
    """The codec of a pipeline's ``vae``."""
    tiny = type(pipe.vae).__name__ == "AutoencoderTiny"
    return TinyCodec(pipe) if tiny else KLCodec(pipe)


def _laid_out(images: torch.Tensor) -> torch.Tensor:
    """``images`` (b c h w) in the layout that their device's convolutions like best whatever the
    weights' is: channels last on CPUs, where the results differ in the last bits. Elsewhere the
    weights decide: ``optimise("channels-last")``.
    """
    import torch

    if images.device.type != "cpu":
        return images
    return images.contiguous(memory_format=torch.channels_last)

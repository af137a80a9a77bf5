"""Fills by a network: an inpainting GAN of a registered name or in a file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engine.errors import InputError, ModelError
from engine.picture.fill.classic import push_pull, to_pixels
from engine.registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rgb = NDArray[np.uint8]
    Hole = NDArray[np.bool_]
    Fill = Callable[[Rgb, Hole], Rgb]
    Network = Callable[[NDArray[np.float32], NDArray[np.float32]], Any]


@dataclass(frozen=True)
class GanInfo:
    """An inpainting GAN by name."""

    name: str
    description: str
    load: Callable[[], Any]
    """Gives a torch module on the CPU, ``(image, mask) -> image`` as :func:`gan` describes it."""


GANS = Registry("GAN", GanInfo, "softpaint.gans", reserved=":/\\.")


def gan(source: str | os.PathLike[str] | None = None) -> Fill:
    """A fill by an inpainting GAN with LaMa's interface: ``(image, mask) -> image``, image b 3 H W
    in [0, 1] and mask b 1 H W (1 = hole), in TorchScript (``.pt``, ``.pth``, ``.ts``) or ONNX
    (``.onnx``; needs the extra ``softpaint[onnx]``). Models that answer in 0 to 255 are understood;
    ONNX models of one fixed size are given the picture at that size.

    Args:
        source: a file, ``owner/name/file`` on the model hub, or a registered name (:data:`GANS`);
            None or empty is the first that is registered.

    Raises:
        InputError: the file is missing, onnxruntime is, or nothing is registered.
        ModelError: it cannot be loaded, or is no such model.
    """
    if not source:
        if not GANS.names():
            raise InputError("no GAN is registered; give one: prefill='gan:PATH'.")
        source = GANS.names()[0]
    known = isinstance(source, str) and source in GANS
    which = str(source) if known else _gan_file(source)

    def fill(rgb: Rgb, hole: Hole) -> Rgb:
        return _load_gan(which)(rgb, hole)

    fill.__name__ = "gan"
    return meeting_known(fill)


def _gan_file(source: str | os.PathLike[str]) -> Path:
    path = Path(source)
    if not path.is_file():
        parts = os.fspath(source).split("/")
        if len(parts) < 3 or path.is_absolute() or parts[0] in {".", "..", ""}:
            raise InputError(f"prefill: there is no file {os.fspath(source)!r}.")
        path = _from_hub("/".join(parts[:2]), "/".join(parts[2:]))
    if path.suffix not in {".pt", ".pth", ".ts", ".onnx"}:
        raise InputError(f"prefill: {path.name} is neither TorchScript (.pt) nor ONNX (.onnx).")
    if path.suffix == ".onnx":
        _onnxruntime()
    return path


def _from_hub(repository: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise InputError(
            f"prefill: {repository}/{name} is no file here and cannot be had from the model hub."
        ) from error


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "an ONNX model needs the package onnxruntime: pip install 'softpaint[onnx]'"
        ) from None
    return onnxruntime


@lru_cache(maxsize=2)
def _load_gan(source: str | Path) -> Fill:
    """``source``: a registered name, or a file."""
    fixed: tuple[int, int] | None = None
    try:
        if isinstance(source, str):
            call = _called(GANS.get(source).load())
        elif source.suffix == ".onnx":
            call, fixed = _load_onnx(source)
        else:
            call = _called(_load_torch(source))
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{source} cannot be loaded as an inpainting model: {error}") from error
    return partial(_run_gan, call, fixed, str(source))


def _run_gan(call: Network, fixed: tuple[int, int] | None, name: str, rgb: Rgb, hole: Hole) -> Rgb:
    """What the network ``call`` makes of the hole. ``fixed``: the only (width, height) that it
    takes, if there is one; ``name`` is for messages.
    """
    height, width = hole.shape
    picture: NDArray[Any] = rgb
    mask: NDArray[Any] = hole.astype(np.uint8)
    if fixed is not None:
        picture = cv2.resize(picture, fixed, interpolation=cv2.INTER_AREA)
        mask = (cv2.resize(mask.astype(np.float32), fixed, interpolation=cv2.INTER_AREA) > 0) * 1
    else:
        sides = [(0, -side % 8) for side in (height, width)]
        picture = np.pad(picture, [*sides, (0, 0)], mode="symmetric")
        mask = np.pad(mask, sides, mode="symmetric")
    image: NDArray[Any] = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / 255
    try:
        answer = np.asarray(call(image, mask[None, None].astype(np.float32)))
    except Exception as error:
        raise ModelError(f"{name} failed as (image, mask) -> image: {error}") from error
    if answer.shape != image.shape or not np.isfinite(answer).all():
        raise ModelError(
            f"{name} answers {image.shape} with {answer.shape}, or with NaN; an inpainting "
            "model returns the picture."
        )
    scale = 1 if answer.max() > 2 else 255
    pixels: NDArray[Any] = (
        (answer[0].transpose(1, 2, 0) * scale).round().clip(0, 255).astype(np.uint8)
    )
    if fixed is not None:
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(pixels[:height, :width], np.uint8)


def _load_torch(path: Path) -> Any:
    import torch

    with warnings.catch_warnings():
        # Deprecated for making models; LaMa and its kin are shipped in it all the same.
        warnings.filterwarnings("ignore", ".*torch.jit.load.*", FutureWarning)
        return torch.jit.load(str(path), map_location="cpu").eval()


def _called(model: Any) -> Network:
    """A torch model as a function of arrays."""
    import torch

    def call(image: NDArray[np.float32], mask: NDArray[np.float32]) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(image), torch.from_numpy(mask)).numpy()

    return call


def _load_onnx(path: Path) -> tuple[Network, tuple[int, int] | None]:
    session = _onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image, mask = (each.name for each in session.get_inputs())
    height, width = session.get_inputs()[0].shape[2:]
    fixed = (width, height) if isinstance(width, int) and isinstance(height, int) else None
    return lambda rgb, hole: session.run(None, {image: rgb, mask: hole})[0], fixed


def meeting_known(fill: Fill) -> Fill:
    """``fill``, its colours moved so that they meet what is known at the hole's edge: what they are
    off by there is taken off, and smoothly less of it further in (a membrane, as Perez et al. 2003
    have it, "Poisson Image Editing"). A network's fill often has a cast of its own.
    """

    def met(rgb: Rgb, hole: Hole) -> Rgb:
        filled = fill(rgb, hole).astype(np.float32)
        known = (~hole).astype(np.float32)
        share, beside = (
            cv2.blur(each, (3, 3), borderType=cv2.BORDER_CONSTANT)
            for each in (known, rgb * known[..., None])
        )
        rim = hole & (share > 0)
        if not rim.any():
            return to_pixels(filled)
        off = beside / np.maximum(share, 1e-6)[..., None] - filled
        return to_pixels(filled + push_pull(off, rim))

    met.__name__ = fill.__name__
    return met

"""Pictures to learn from, with their captions and what of them is unknown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.errors import InputError
from engine.picture.geometry import Size
from engine.picture.metadata import FORMATS
from engine.picture.read import load_image

if TYPE_CHECKING:
    from numpy.typing import NDArray


MARKED = ".mask"
"""``photo.mask.png`` beside ``photo.jpg`` tells where the subject is."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture to learn from."""

    name: str
    pixels: NDArray[np.uint8]
    """H W 3."""
    caption: str
    unknown: NDArray[np.bool_]
    """H W: nothing is learnt there. Transparent pixels, and the hole of a picture to be filled."""
    subject: NDArray[np.bool_] | None = None
    """H W: where the thing stands that is to be learnt; None: it is not told."""
    own: bool = False
    """The network's own, drawn before it was taught; it is to answer there as it did."""

    @property
    def digest(self) -> str:
        """Of pixels, hole and caption."""
        whole = sha256(self.pixels.tobytes())
        whole.update(np.packbits(self.unknown).tobytes() + repr(self.pixels.shape).encode())
        whole.update(self.caption.encode())
        if self.subject is not None:
            whole.update(np.packbits(self.subject).tobytes())
        return whole.hexdigest()

    def mirrored(self) -> Photo:
        """Left is right."""
        subject = None if self.subject is None else self.subject[:, ::-1]
        pixels, unknown = self.pixels[:, ::-1].copy(), self.unknown[:, ::-1]
        return replace(self, pixels=pixels, unknown=unknown, subject=subject)

    def fitted(self, side: int, align: int) -> Photo:
        """About ``side`` times ``side`` pixels at its own shape, both sides multiples of ``align``;
        what then stands over is cut off evenly.
        """
        height, width = self.pixels.shape[:2]
        scale = side / (height * width) ** 0.5
        size = Size(*(max(align, round(each * scale / align) * align) for each in (width, height)))
        if size == (width, height):
            return self
        cover = max(size.width / width, size.height / height)
        across, down = size.width / cover, size.height / cover
        left, top = (width - across) / 2, (height - down) / 2
        box = (left, top, left + across, top + down)
        pixels = Image.fromarray(self.pixels).resize(size, Image.Resampling.LANCZOS, box=box)
        unknown = _resized(self.unknown, size, box)
        subject = None if self.subject is None else _resized(self.subject, size, box)
        if subject is not None and not subject.any():
            subject = None
        return replace(self, pixels=np.asarray(pixels), unknown=unknown, subject=subject)


def _resized(
    mask: NDArray[np.bool_], size: Size, box: tuple[float, float, float, float]
) -> NDArray[np.bool_]:
    """True wherever a part of a pixel was."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize(size, Image.Resampling.BOX, box=box)) > 0


def find_photos(places: Iterable[Path]) -> list[Path]:
    """The pictures among ``places``: files, and what lies in folders, by name; without those that
    tell where the subject of another is.

    Raises:
        InputError: there is none, or a place does not exist.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = [each for each in sorted(place.iterdir()) if each.suffix.lower() in FORMATS]
            if not inside:
                raise InputError(f"there is no picture in {str(place)!r}.")
            found += inside
        elif place.exists():
            found.append(place)
        else:
            raise InputError(f"there is no picture {str(place)!r}.")
    found = [each for each in found if not each.stem.endswith(MARKED)]
    if not found:
        raise InputError("no pictures are given to learn from.")
    return found


def read_photos(
    places: Sequence[Path], prompt: str | None, *, captioned: bool = True
) -> list[Photo]:
    """Pictures with their captions: of a text file of a picture's name, else ``prompt``.

    Args:
        places: of the pictures.
        prompt: of those without a caption of their own.
        captioned: every one needs a caption.

    Raises:
        InputError: one cannot be read, or has no caption and needs one.
    """
    return [_read(path, prompt, captioned=captioned) for path in places]


def _read(path: Path, prompt: str | None, *, captioned: bool) -> Photo:
    text = path.with_suffix(".txt")
    caption = prompt
    if text.is_file():
        try:
            caption = text.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the caption {str(text)!r} cannot be read: {error}.") from error
    if captioned and not caption:
        raise InputError(f"{str(path)!r} has no caption: give --prompt, or write {text.name}.")
    picture = load_image(path)
    height, width = picture.rgb.shape[:2]
    clear = np.zeros((height, width), bool) if picture.alpha is None else picture.alpha < 128
    if clear.all():
        raise InputError(f"{str(path)!r} is wholly transparent: there is nothing to learn.")
    return Photo(str(path), picture.rgb, caption or "", clear, _subject_of(path, height, width))


def _subject_of(path: Path, height: int, width: int) -> NDArray[np.bool_] | None:
    """What the mask beside a picture says; None where there is none."""
    place = path.with_name(f"{path.stem}{MARKED}.png")
    if not place.is_file():
        return None
    marked: NDArray[np.bool_] = load_image(place).rgb.max(axis=2) > 127
    if marked.shape != (height, width):
        across, down = marked.shape[::-1]
        raise InputError(f"{str(place)!r} is {across} x {down} px, its picture {width} x {height}.")
    if not marked.any():
        raise InputError(f"{str(place)!r} marks nothing: white is where the subject is.")
    return marked

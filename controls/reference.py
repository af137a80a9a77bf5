"""Reference pictures: what an IP-Adapter lets the repainted region look like.

diffusers' own loader brings the adapters (``engine.pipe.load_ip_adapter(...)``, Ye et al. 2023);
an edit's ``ip_adapter_image`` says which pictures they read. They act inside the network's
cross-attention, so they compose with every strategy and with ControlNets.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.picture.opening import name_of

_SCALED = re.compile(r"(?P<picture>.+):(?P<scale>[+-]?(?:\d+\.?\d*|\.\d+))")


@dataclass(frozen=True, eq=False)
class Reference:
    """A picture for an IP-Adapter.

    Args:
        image: path, Pillow image, array or tensor, of any size.
        scale: its weight, times what ``engine.pipe.set_ip_adapter_scale`` says; 0 is off.
        mask: where it holds: a strength map of the edited picture's size, 1 = fully.
        embeds: in ``image``'s place, its embeddings: a tensor of 1 or 2 rows (``r n ...``; of two
            the first is the negative one, of one it is zeros) as diffusers'
            ``prepare_ip_adapter_image_embeds`` makes them and FaceID adapters need them.

    Raises:
        InputError: a value that is not accepted; the message says what is.

    Example:
        >>> style = Reference("photo.png", scale=0.5, mask="mask.png")
        >>> style.scale
        0.5
    """

    image: Any = None
    scale: float = 1.0
    mask: Any = None
    embeds: Any = None

    def __post_init__(self) -> None:
        if (self.image is None) == (self.embeds is None):
            raise InputError("a reference needs either an image or embeds.")
        scale: object = self.scale
        if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale):
            raise InputError(f"a reference's scale must be a finite number, not {scale!r}.")
        given = self.embeds
        if given is not None and (
            not hasattr(given, "isfinite")
            or given.ndim not in {3, 4}
            or given.shape[0] not in {1, 2}
            or not bool(given.isfinite().all())
        ):
            raise InputError(
                "a reference's embeds must be a finite tensor of 1 or 2 rows: (r, images, width) "
                "or (r, images, tokens, width)."
            )

    @classmethod
    def parse(cls, text: str, mask: Any = None) -> tuple[str, Reference]:
        """The adapter's file and the reference that ``FILE=PICTURE[:SCALE]`` asks for.

        Raises:
            InputError: it cannot be read.
        """
        adapter, equals, rest = text.partition("=")
        if not (adapter.strip() and equals and rest.strip()):
            raise InputError(
                f"the IP-Adapter {text!r} cannot be read: FILE=PICTURE[:SCALE] is expected, as in "
                "ip-adapter_sdxl.safetensors=style.png:0.6."
            )
        picture, scale = rest.strip(), 1.0
        if not Path(picture).exists() and (found := _SCALED.fullmatch(picture)):
            picture, scale = found["picture"], float(found["scale"])
        return adapter.strip(), cls(Path(picture), scale, mask=mask)

    def describe(self) -> dict[str, Any]:
        """What a record keeps of it: values that JSON can hold."""
        what = "embeds" if self.image is None else name_of(self.image, "image")
        return {"image": what, "scale": float(self.scale), "mask": self.mask is not None}


def check_references(given: Any) -> tuple[tuple[Reference, ...], ...]:
    """An edit's ``ip_adapter_image`` as the references of each adapter.

    ``given``: None, a picture or :class:`Reference`, or a list with an entry for each loaded
    adapter, which may be a list of several.

    Raises:
        InputError: an empty list, or an entry that is missing.
    """
    if given is None:
        return ()
    entries = given if isinstance(given, list | tuple) else [given]
    asked = []
    for entry in entries:
        several = entry if isinstance(entry, list | tuple) else [entry]
        asked.append(
            tuple(each if isinstance(each, Reference) else Reference(each) for each in several)
        )
    if not all(asked) or not asked:
        raise InputError("ip_adapter_image is an empty list; give a picture for each IP-Adapter.")
    return tuple(asked)

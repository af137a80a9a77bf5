"""Runs a case and finds what is wrong with how it ended."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.cli import run
from engine.errors import SoftpaintError
from engine.picture.map_files import load_mask, load_strength_map
from engine.picture.read import load_image

if TYPE_CHECKING:
    from engine import InpaintEngine
    from tests.fuzz.cases import Case

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def judged(case: Case, folder: Path, engine: InpaintEngine) -> list[str]:
    """What is wrong, in words; empty if the case ended in a right picture or one clear line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case.python is not None:
            return _python(case, engine)
        before = _state(folder)
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(case.arguments)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
            return [f"raised {error!r}"]
        after = _state(folder)
    told = err.getvalue()
    wrong = []
    if "Traceback" in told or "unexpected" in told or _CONTROL.search(out.getvalue() + told):
        wrong.append(f"told {told!r}")
    if left := [name for name in after if ".softpaint-" in name]:
        wrong.append(f"left {left}")
    allowed = {str(path) for path in case.preview}
    if code == 0:
        allowed |= {str(path) for path in case.outputs}
        wrong += _finished(case, before)
    elif code not in {1, 2} or len(re.findall("^softpaint: error: ", told, re.MULTILINE)) != 1:
        wrong.append(f"ended with {code} and {told!r}")
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    if changed := changed - allowed:
        wrong.append(f"changed {sorted(changed)} (ended with {code})")
    return wrong


def _state(folder: Path) -> dict[str, tuple[str, int]]:
    """Contents and mode of every file, links by what they lead to."""
    state = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            state[str(path)] = (f"link to {path.readlink()}", 0)
        elif path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            state[str(path)] = (digest, stat.S_IMODE(path.stat().st_mode))
    return state


def _finished(case: Case, before: dict[str, tuple[str, int]]) -> list[str]:
    """What is wrong with the files of a command that says that all went well."""
    wrong = []
    for path in case.outputs:
        if not path.is_file():
            wrong.append(f"no {path.name!r}")
            continue
        old = before.get(str(path))
        if old is not None and stat.S_IMODE(path.stat().st_mode) != old[1]:
            wrong.append(f"the mode of {path.name!r} changed")
        if case.arguments[0] == "edit" and case.photo is not None:
            wrong += _picture(case, path)
        elif path.suffix != ".html":
            Image.open(path).load()
    return wrong


def _picture(case: Case, path: Path) -> list[str]:
    """An edit's picture: its size, and what was not to be touched."""
    assert case.photo is not None
    photo, made = load_image(case.photo), load_image(path)
    left, top, right, bottom = case.expand
    width, height = photo.size
    if made.size != (width + left + right, height + top + bottom):
        return [f"{path.name!r} is {made.size}, the photo {photo.size}"]
    if path.suffix == ".jpg":
        return []
    inner = made.rgb[top : top + height, left : left + width]
    untouched = np.ones((height, width), bool)
    if case.region is not None:
        kind, file = case.region
        if kind == "mask":
            grown = any(case.expand)
            found = load_mask(file, photo.size, invert=case.invert, may_be_empty=grown)
        else:
            found = load_strength_map(file, photo.size, invert=case.invert)
        untouched = found == 0
    if photo.alpha is not None:
        untouched &= photo.alpha > 0
    if not np.array_equal(inner[untouched], photo.rgb[untouched]):
        return [f"{path.name!r}: untouched pixels changed"]
    return []


def _python(case: Case, engine: InpaintEngine) -> list[str]:
    assert case.python is not None
    try:
        result = engine.edit(**case.python)
    except SoftpaintError as error:
        return [] if str(error) and "\n" not in str(error) else [f"raised {error!r}"]
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
        return [f"raised {error!r}"]
    image, source = result.images[0], load_image(_first(case.python["image"]))
    return [] if image.size == source.size else [f"{image.size} of {source.size}"]


def _first(image):
    """The first picture of a batch."""
    return image[0] if image.ndim == 4 else image

"""Seeded inputs as people have them and as nobody should: files, options, tensors."""

from __future__ import annotations

import io
import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

NAMES = (
    "photo",
    "sp ace",
    "ümläut",
    "it's",
    'q"uote',
    "50%",
    "-dash",
    "🏠",
    "a=b:c",
    "x\ny",
    "a.b",
)
SIZES = ((1, 1), (1, 7), (3, 5), (8, 64), (17, 31), (64, 64), (65, 33), (90, 20), (40, 56))
MODES = ("1", "L", "LA", "P", "RGB", "RGB", "RGB", "RGBA", "CMYK", "I;16", "F")
FORMATS = {
    "1": ("png", "tif", "bmp"),
    "L": ("png", "jpg", "webp", "tif"),
    "LA": ("png",),
    "P": ("png", "gif"),
    "RGB": ("png", "jpg", "webp", "tif", "bmp"),
    "RGBA": ("png", "webp", "tif"),
    "CMYK": ("jpg", "tif"),
    "I;16": ("png", "tif"),
    "F": ("tif",),
}


@dataclass
class Case:
    """A command line in a folder of its own, or arguments of ``InpaintEngine.edit``."""

    seed: int
    arguments: list[str] = field(default_factory=list)
    python: dict[str, Any] | None = None
    photo: Path | None = None
    region: tuple[str, Path] | None = None
    """``"mask"`` or ``"strength_map"``, and its file."""
    outputs: list[Path] = field(default_factory=list)
    preview: list[Path] = field(default_factory=list)
    expand: tuple[int, int, int, int] = (0, 0, 0, 0)
    invert: bool = False

    def __str__(self) -> str:
        what = self.arguments or {key: _brief(value) for key, value in (self.python or {}).items()}
        return f"seed {self.seed}: {what}"


def _brief(value: Any) -> Any:
    shape = getattr(value, "shape", None)
    return value if shape is None else f"{type(value).__name__} {tuple(shape)} {value.dtype}"


def make(seed: int, folder: Path) -> Case:
    """The case of ``seed``, its files in ``folder``, which is empty."""
    rng = random.Random(seed)
    kinds = (_edit, _compare, _mapping, _annotate, _from, _python)
    (kind,) = rng.choices(kinds, (60, 6, 8, 6, 5, 15))
    return kind(rng, seed, folder)


# --- files ----------------------------------------------------------------------------------------


def _pixels(rng: random.Random, size: tuple[int, int], mode: str) -> Image.Image:
    draw = np.random.default_rng(rng.randrange(2**32))
    width, height = size
    if mode == "F":
        return Image.fromarray(draw.random((height, width), dtype=np.float32))
    if mode == "I;16":
        return Image.fromarray(draw.integers(0, 65536, (height, width), dtype=np.uint16))
    rgb = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(rgb).convert(mode)
    if mode in {"LA", "RGBA"}:
        image.putalpha(Image.fromarray(draw.integers(0, 256, (height, width), dtype=np.uint8)))
    return image


def _photo(rng: random.Random, folder: Path) -> tuple[Path, tuple[int, int]]:
    size, mode = rng.choice(SIZES), rng.choice(MODES)
    suffix = rng.choice(FORMATS[mode])
    path = folder / f"{rng.choice(NAMES)}.{suffix}"
    image = _pixels(rng, size, mode)
    more: dict[str, Any] = {}
    if suffix == "png" and rng.random() < 0.3:
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", "with \x1b[31m and more")
        more["pnginfo"] = text
    if rng.random() < 0.2:
        more["exif"] = rng.choice([b"Exif\0\0garbage", _turned(rng.randint(1, 8))])
    if suffix == "png" and mode == "P" and rng.random() < 0.5:
        more["transparency"] = rng.randrange(4)
    try:
        image.save(path, **more)
    except (OSError, ValueError, TypeError, SyntaxError):
        image.save(path)
    _spoil(rng, path, chance=0.12)
    return path, size


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _spoil(rng: random.Random, path: Path, chance: float) -> None:
    """Sometimes make of a file what is none."""
    if rng.random() > chance:
        return
    data = path.read_bytes()
    what = rng.choice(("half", "bytes", "empty", "text", "gone", "folder", "loop", "frames"))
    if what in {"gone", "folder", "loop"}:
        path.unlink()
    if what == "half":
        path.write_bytes(data[: len(data) // 2])
    elif what == "bytes":
        spoilt = bytearray(data)
        for _ in range(5):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        path.write_bytes(bytes(spoilt))
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "text":
        path.write_text("no picture")
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    elif what == "frames":
        frames = [Image.new("L", (8, 8), level) for level in (0, 255)]
        buffer = io.BytesIO()
        frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
        path.write_bytes(buffer.getvalue())


def _map(rng: random.Random, folder: Path, size: tuple[int, int]) -> Path:
    width, height = size
    if rng.random() < 0.1:
        width, height = rng.choice(SIZES)
    values = np.zeros((height, width), np.uint8)
    kind = rng.choice(("box", "box", "box", "soft", "noise", "black", "white", "faint"))
    if kind in {"box", "soft"}:
        right, low = rng.randint(1, width), rng.randint(1, height)
        values[low // 2 : low, right // 2 : right] = 255
        if kind == "soft":
            values = (values * np.linspace(0, 1, width)).astype(np.uint8)
    elif kind != "black":
        values[:] = {"white": 255, "faint": 4}.get(kind, 0)
        if kind == "noise":
            draw = np.random.default_rng(rng.randrange(2**32))
            values = draw.integers(0, 256, values.shape, np.uint8)
    image = Image.fromarray(values).convert(rng.choice(("L", "L", "L", "1", "RGB", "P")))
    path = folder / f"m {rng.choice(NAMES)}.{rng.choice(('png', 'png', 'tif'))}"
    image.save(path)
    _spoil(rng, path, chance=0.06)
    return path


def _output(rng: random.Random, folder: Path, inputs: list[Path], suffix: str = "") -> Path:
    suffix = suffix or rng.choice(("png",) * 6 + ("jpg", "webp", "gif", ""))
    path = folder / f"out {rng.choice(NAMES)}{suffix and '.'}{suffix}"
    kind = rng.choices(("new", "old", "input", "link", "twin", "nowhere"), (60, 15, 8, 6, 6, 5))[0]
    there = [each for each in inputs if each.is_file()]
    if kind == "old":
        path.write_bytes(b"an older result")
        path.chmod(rng.choice((0o600, 0o640, 0o444)))
    elif kind == "nowhere":
        path = folder / "absent" / path.name
    elif kind == "input" and inputs:
        path = rng.choice(inputs)
    elif kind == "link" and there:
        path.symlink_to(rng.choice(there).name)
    elif kind == "twin" and there:
        os.link(rng.choice(there), path)
    return path


# --- commands -------------------------------------------------------------------------------------


def _settings(rng: random.Random) -> list[str]:
    """Some settings of an edit; one in five holds what is not accepted."""
    odd = rng.random() < 0.2
    some = {
        "--seed": ("0", "-1", "7", str(2**63), str(2**64 - 1)),
        "--guidance": ("0", "1", "5", "1e30"),
        "--guidance-rescale": ("0", "0.7"),
        "--strength": ("0.1", "0.5", "1"),
        "--feather": ("0", "3.5", "200"),
        "--region": ("auto", "full", "mask"),
        "--context": ("1", "3"),
        "--zoom": ("1", "2"),
        "--prefill": ("auto", "original", "blur", "telea", "patch", "neutral", "noise"),
        "--paste": ("alpha", "adaptive", "multiband", "poisson"),
        "--colour": ("field", "lab", "histogram", "none"),
        "--scheduler": ("euler", "ddim", "dpmpp-2m-karras", "lcm"),
        "--strategy": ("differential", "blend", "soft-blend", "remove", "inpaint9"),
    }
    wrong = {
        "--seed": ("x", str(2**64), "-7"),
        "--guidance": ("nan", "-1", "inf"),
        "--strength": ("0", "1.5", "nan"),
        "--region": ("some", ""),
        "--prefill": ("gan:absent.pt", "\x1b[31m", ""),
        "--scheduler": ("eulr", "../x"),
        "--strategy": ("blnd", "differential+absent", ""),
        "--option": ("strength_mode=loud", "a", "prompt=x"),
        "--context": ("0", "1e9"),
        "--feather": ("-1",),
        "--expand": ("1,2,3", "a,b,c,d", "-1,0,0,0", "0,0,0,0"),
    }
    chosen = rng.sample(sorted(some), rng.randint(0, 4))
    found = [f"{flag}={rng.choice(some[flag])}" for flag in chosen]
    if odd:
        flag = rng.choice(sorted(wrong))
        found.append(f"{flag}={rng.choice(wrong[flag])}")
    return found


def _edit(rng: random.Random, seed: int, folder: Path, command: str = "edit") -> Case:
    photo, size = _photo(rng, folder)
    case = Case(seed, photo=photo)
    prompt = rng.choice(("a tent", "", "ü" * 300, "a (b:1.2)"))
    arguments = ["--steps=1", f"--prompt={prompt}"]
    if rng.random() < 0.9:
        kind = rng.choice(("mask", "mask", "strength_map"))
        region = _map(rng, folder, size) if rng.random() < 0.95 else photo
        case.region = kind, region
        arguments.append(f"--{kind.replace('_', '-')}={region}")
    if rng.random() < 0.15:
        case.expand = (rng.randint(0, 9), 0, rng.randint(1, 20), rng.randint(0, 5))
        arguments.append(f"--expand={','.join(map(str, case.expand))}")
    if rng.random() < 0.15:
        case.invert = True
        arguments.append("--invert")
    inputs = [photo, *([case.region[1]] if case.region else [])]
    output = _output(rng, folder, inputs)
    arguments += [f"--output={output}", *_settings(rng)]
    case.outputs = [output]
    if command == "edit":
        if rng.random() < 0.15:
            arguments.append("--num-images=2")
            case.outputs = _numbered(output)
        if rng.random() < 0.15:
            preview = _output(rng, folder, [*inputs, output])
            arguments.append(f"--preview={preview}")
            case.preview = [preview, *_numbered(preview)]
    elif rng.random() < 0.5:
        page = _output(rng, folder, [*inputs, output], "html")
        arguments.append(f"--html={page}")
        case.outputs.append(page)
    rng.shuffle(arguments)
    case.arguments = [command, *arguments, "--", str(photo)]
    return case


def _numbered(path: Path) -> list[Path]:
    return [path.parent / f"{path.stem}-{i}{path.suffix}" for i in (0, 1)]


def _compare(rng: random.Random, seed: int, folder: Path) -> Case:
    case = _edit(rng, seed, folder, "compare")
    case.arguments = [each for each in case.arguments if not each.startswith("--strategy=")]
    case.arguments.insert(1, "--strategies=blend,differential")
    return case


def _mapping(rng: random.Random, seed: int, folder: Path) -> Case:
    source = _map(rng, folder, rng.choice(SIZES))
    output = _output(rng, folder, [source])
    tools = ("--grow=2", "--shrink=1", "--feather=3", "--scale=0.5", "--invert", "--hard")
    changes = rng.sample(tools, 2)
    arguments = ["map", f"--output={output}", *changes, "--", str(source)]
    return Case(seed, arguments, outputs=[output])


def _annotate(rng: random.Random, seed: int, folder: Path) -> Case:
    photo, _ = _photo(rng, folder)
    output = _output(rng, folder, [photo])
    control = rng.choice(("canny", "canny", "inpaint", "x"))
    arguments = ["annotate", f"--control={control}", f"--output={output}", "--", str(photo)]
    return Case(seed, arguments, outputs=[output])


def _from(rng: random.Random, seed: int, folder: Path) -> Case:
    """A record by someone else: any value in any place."""
    values: list[Any] = [None, 5, -1, "x", "\x1b[2J", [], {}, [1], {"a": 1}, True, 1e400, "a/b"]
    record: dict[str, Any] = {
        "format": 1,
        "version": "0.1.0",
        "image": {"path": "photo.png", "absolute": "/x/photo.png", "sha256": "0" * 64},
        "region": {},
        "load": {},
        "edit": {"prompt": "x", "expand": [8, 0, 0, 0], "seed": 1, "num_inference_steps": 1},
        "index": 0,
        "settings": {},
        "timings": {"total": 1.0},
        "controls": [],
    }
    for _ in range(rng.randint(0, 2)):
        where = rng.choice((record, record["edit"], record["load"], record["image"]))
        if isinstance(where, dict):
            places = ["model", "colour", "strategy", "prefill", *where]
            where[rng.choice(places)] = rng.choice(values)
    text = PngImagePlugin.PngInfo()
    text.add_itxt("softpaint:edit", json.dumps(record), "", "")
    Image.new("RGB", (16, 16), "red").save(folder / "r.png", pnginfo=text)
    Image.new("RGB", (16, 24), "blue").save(folder / "new.png")
    output = folder / "out.png"
    arguments = rng.choice((["show"], ["edit", f"--output={output}", f"--from={folder / 'r.png'}"]))
    arguments = [*arguments, "--", str(folder / ("r.png" if arguments[0] == "show" else "new.png"))]
    return Case(seed, arguments, outputs=[output] if arguments[0] == "edit" else [])


def _python(rng: random.Random, seed: int, _: Path) -> Case:
    """Arrays and tensors of any shape, type and range."""
    import torch

    draw = np.random.default_rng(rng.randrange(2**32))

    def array(shape: tuple[int, ...]) -> Any:
        kind = rng.choice(
            ("u8", "f32", "f64", "bool", "i64", "u16", "nan", "tensor", "half", "wide")
        )
        values = draw.random(shape)
        made: dict[str, Any] = {
            "u8": (values * 255).astype(np.uint8),
            "f32": values.astype(np.float32),
            "f64": values,
            "bool": values > 0.5,
            "i64": (values > 0.5).astype(np.int64),
            "u16": (values * 65535).astype(np.uint16),
            "nan": np.where(values > 0.99, np.nan, values),
            "wide": values * 3 - 1,
        }
        if kind in {"tensor", "half"}:
            tensor = torch.from_numpy(values.astype(np.float32))
            tensor = tensor.moveaxis(-1, 0) if tensor.ndim == 3 and shape[-1] < 5 else tensor
            return tensor.half() if kind == "half" else tensor
        return made[kind]

    width, height = rng.choice(SIZES)
    usual = (height, width, 3)
    image = array(
        rng.choice((*(usual,) * 4, usual[:2], (height, width, 4), (0, 3), (2, height, width, 3)))
    )
    mask = array(
        rng.choice((*(usual[:2],) * 4, (height, width, 1), (3, height, width), (height + 1, width)))
    )
    region = rng.choice(("mask", "strength_map", "strength_map"))
    python = {
        "image": image,
        region: mask,
        "prompt": "a tent",
        "num_inference_steps": 1,
        "seed": rng.choice((0, -1, 2**64 - 1)),
        "strategy": rng.choice(("differential", "blend", "soft-blend")),
    }
    return Case(seed, python=python)

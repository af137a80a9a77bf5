"""Files of every form in every place where somebody puts them, tried as a user does.

    python -m tests.kit.wild FOLDER [PART OF A NAME ...]

Builds tiny files of the real layouts in FOLDER, runs ``softpaint edit`` with each, without a hub,
and prints what was not as it should be: either the edit works, or one line says what is wrong and
nothing is written. What passes is counted. The suite holds a few of each kind (``test_wild.py``,
``test_single_files.py``, ``test_lora.py``, ``test_forms.py``); this is all of them, in 20 minutes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import diffusers
import torch
from safetensors.torch import save_file

from engine.models.families.sd import SD1, SD2
from engine.models.families.sdxl import BASE, REFINER
from engine.models.formats.folders import load_pipeline
from tests.kit import ldm, tiny, tiny_adapters, tiny_controls

EDIT = "edit photo.png -m mask.png -p house --steps 2 --seed 1 -q --device cpu -o out.png "
LAYOUTS = {"sd1": SD1, "sd2": SD2, "sdxl": BASE, "refiner": REFINER}
UNETS: dict[str, Any] = {"sd1": ldm.sd1_unet, "sd2": ldm.sd2_unet, "sdxl": ldm.sdxl_unet}
CLIP = 49408
WORKS = ""
ANOTHER = "of another family|does not fit|of another kind"
MARK = torch.zeros(0)


class Case(NamedTuple):
    """A command, and what is said of it; :data:`WORKS` where it has to work."""

    name: str
    line: str
    said: str = WORKS


def model(file: str, said: str = WORKS, more: str = "") -> Case:
    return Case(f"{file} {more}".strip(), f"--model {file} {more}", said)


class Wild:
    """Tiny modules of each layout, and their tensors by the files' names."""

    def __init__(self) -> None:
        self.parts = {n: ldm.tiny_parts(each, words=CLIP) for n, each in LAYOUTS.items()}
        self.tensors = {n: ldm.tensors_of(LAYOUTS[n], parts) for n, parts in self.parts.items()}

    def pipe(self, name: str) -> Any:
        """What the makers of adapters ask of a pipeline."""
        both = {"text_encoder": None, "text_encoder_2": None}
        return SimpleNamespace(**{**both, **self.parts[name]})


def write(name: str, tensors: Any, dtype: torch.dtype | None = None) -> str:
    ldm.write(Path(name), tensors, dtype)
    return name


# --- models --------------------------------------------------------------------------------------


def checkpoints(wild: Wild) -> Iterator[Case]:
    """Whole models, of all layouts, types and marks."""
    for name, tensors in wild.tensors.items():
        yield model(write(f"{name}.safetensors", tensors))
    sdxl, sd1 = wild.tensors["sdxl"], wild.tensors["sd1"]
    yield model(write("half.safetensors", sdxl, torch.float16))
    yield model(write("bf16.safetensors", sdxl, torch.bfloat16))
    old = {k.replace("transformer.text_model.", "transformer."): v for k, v in sd1.items()}
    yield model(write("old-merge.safetensors", old))
    for name, tensors in (("sdxl", sdxl), ("sd1", sd1)):
        yield model(write(f"{name}-v.safetensors", {**tensors, "v_pred": MARK}))
        marks = {"v_pred": MARK, "ztsnr": MARK}
        yield model(write(f"{name}-zt.safetensors", {**tensors, **marks}))
    edm = {"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)}
    yield model(write("edm.safetensors", {**sdxl, **edm}))
    yield model("sd2.safetensors", more="--prediction-type v_prediction")
    eight = {
        name: each.to(torch.float8_e4m3fn) if each.ndim > 1 and "model.diff" in name else each
        for name, each in sdxl.items()
    }
    yield model(save("fp8.safetensors", eight))
    for name, each in sdxl.items():
        if each.ndim == 2 and "model.diff" in name:
            scale = each.abs().max() / 400
            eight[name] = (each / scale).to(torch.float8_e4m3fn)
            eight[name.replace(".weight", ".scale_weight")] = scale.reshape(1)
    yield model(save("fp8-scaled.safetensors", eight))
    conv_in = "model.diffusion_model.input_blocks.0.0.weight"
    for count, said in ((5, "depth model"), (7, "upscaler"), (8, "pix2pix"), (6, "unusual number")):
        yield model(
            write(f"{count}.safetensors", {**sd1, conv_in: torch.zeros(32, count, 3, 3)}), said
        )


def save(name: str, tensors: Any) -> str:
    """As they are, for types that have no arithmetic."""
    save_file({key: each.contiguous().clone() for key, each in tensors.items()}, name)
    return name


def inpainting(wild: Wild) -> Iterator[Case]:
    """Networks of 9 channels, alone and beside others."""
    for name, make in UNETS.items():
        unet = make(9, 5)
        whole = ldm.tensors_of(LAYOUTS[name], {**wild.parts[name], "unet": unet})
        yield model(write(f"{name}-inpaint.safetensors", whole))
        unet.save_pretrained(f"{name}-unet9")
        alone = write(f"{name}-unet9.safetensors", ldm.unet_tensors(unet, ""))
        for place in (f"{name}-inpaint.safetensors", f"{name}-unet9", alone):
            yield nine(name, place)
        yield model(alone, "a UNet alone")
        yield model(f"{name}-unet9", "but UNet2DConditionModel alone")
    for name in ("sd1", "sd2"):
        yield nine("sdxl", f"{name}-inpaint.safetensors", ANOTHER)
    yield nine("sd1", "sdxl-inpaint.safetensors", ANOTHER)
    yield nine("sdxl", "sdxl.safetensors", "4 input channels, not 9")
    yield nine("sdxl", "page.safetensors", "a web page")


def nine(base: str, place: str, said: str = WORKS) -> Case:
    line = f"--model {base}.safetensors --inpaint-model {place} --strategy inpaint9"
    return Case(f"{base} with {place}", line, said)


def vaes(wild: Wild) -> Iterator[Case]:
    """VAEs in a model's place and in their own."""
    own = {k: v for k, v in wild.tensors["sdxl"].items() if not k.startswith("first_stage")}
    yield model(write("no-vae.safetensors", own), "holds no VAE")
    vae = wild.parts["sdxl"]["vae"]
    write("vae.safetensors", ldm.vae_tensors(vae, ""))
    write("vae-diffusers.safetensors", vae.state_dict())
    vae.save_pretrained("vae")
    little: Any = diffusers.AutoencoderTiny()
    little.save_pretrained("taesd")
    write("taesd.safetensors", little.state_dict())
    good = ("vae.safetensors", "vae-diffusers.safetensors", "vae", "taesd", "taesd.safetensors")
    for place in good:
        yield model("no-vae.safetensors", more=f"--vae {place}")
        yield model(place, "is a VAE" if place.endswith("s") else "but Autoencoder")
    for place, said in (("page", "a web page"), ("kohya-sdxl", "no VAE"), ("net-sdxl", "no VAE")):
        yield model("no-vae.safetensors", said, f"--vae {place}.safetensors")


def garbage(_: Wild) -> Iterator[Case]:
    """What is no file of weights, in each place."""
    whole = Path("sdxl.safetensors").read_bytes()
    contents = {
        "page.safetensors": (b"<!DOCTYPE html><html>Login</html>", "a web page"),
        "empty.safetensors": (b"", "is empty"),
        "noise.safetensors": (b"\xff" * 5000, "not a readable"),
        "lfs.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        "cut.safetensors": (whole[: len(whole) // 2], "cut short"),
        "cut-header.safetensors": (whole[:3000], "cut short"),
        "seven.safetensors": (whole[:7], "not a readable"),
        "json.safetensors": (b'{"a": 1}', "JSON"),
        "pickle.safetensors": (b"PK\x03\x04archive", "is a pickle"),
        "model.ckpt": (b"PK\x03\x04archive", "is a pickle|is no .safetensors"),
    }
    for name, (content, said) in contents.items():
        Path(name).write_bytes(content)
        yield model(name, said)
        yield from adapters_of(name, f"{said}|is no .*file|tensors alone")
    yield model("gone.safetensors", "no model at")
    yield model("some/hub-id", "hub cannot be reached")
    yield from adapters_of("gone.safetensors", "no file|no model at")
    yield from adapters_of("some/hub-id", "hub cannot be reached")


def adapters_of(place: str, said: str, but: str = "") -> Iterator[Case]:
    """A file in every adapter's place ``but`` its own."""
    for option, tail in (("lora", ""), ("embedding", ""), ("control", "=canny")):
        if option != but:
            line = f"--model sdxl.safetensors --{option} {place}{tail}"
            yield Case(f"--{option} {place}", line, said)
    if but != "ip":
        line = f"--model sdxl.safetensors --ip-adapter {place}=photo.png"
        yield Case(f"--ip-adapter {place}", line, said)


def folders(_: Wild) -> Iterator[Case]:
    """Pipelines' folders: whole, in half precision, mixed, with holes."""
    pipe = load_pipeline("sdxl.safetensors", "float32", "cpu").pipe
    pipe.save_pretrained("folder")
    yield model("folder")
    pipe.to(torch.float16).save_pretrained("folder-fp16", variant="fp16")
    yield model("folder-fp16")
    shutil.copytree("folder", "mixed", dirs_exist_ok=True)
    name = "diffusion_pytorch_model"
    Path(f"mixed/unet/{name}.safetensors").unlink()
    shutil.copy(f"folder-fp16/unet/{name}.fp16.safetensors", "mixed/unet")
    yield model("mixed")
    other = load_pipeline("sdxl-inpaint.safetensors", "float16", "cpu").pipe
    other.save_pretrained("inpaint-fp16", variant="fp16")
    yield model("inpaint-fp16")
    yield nine("sdxl", "inpaint-fp16")
    for kind in ("Kolors", "PixArtSigma", "StableDiffusionInstructPix2Pix", "Wan"):
        Path(kind).mkdir(exist_ok=True)
        Path(kind, "model_index.json").write_text(json.dumps({"_class_name": f"{kind}Pipeline"}))
        yield model(kind, "family that is not supported")
    shutil.copytree("folder", "no-unet", dirs_exist_ok=True)
    shutil.rmtree("no-unet/unet")
    yield model("no-unet", "could not be loaded")


# --- adapters ------------------------------------------------------------------------------------


def loras(wild: Wild) -> Iterator[Case]:
    """kohya's and LyCORIS' forms, of both families on both."""
    for own in ("sdxl", "sd1"):
        pipe = wild.pipe(own)
        named = tiny_adapters.kohya(pipe, original=own == "sdxl")
        wide = tiny_adapters.kohya(pipe, original=own == "sdxl", convolutions=True)
        unet, text = (
            {n: s for n, s in named.items() if n.startswith(prefix)}
            for prefix in ("lora_unet", "lora_te")
        )
        dora = tiny_adapters.lora(unet)
        dora |= {f"{name}.dora_scale": torch.ones(shape[0], 1) for name, shape in unet.items()}
        for name, state in {
            "kohya": tiny_adapters.lora(named),
            "unet-alone": tiny_adapters.lora(unet),
            "text-alone": tiny_adapters.lora(text),
            "locon": tiny_adapters.lora(wide),
            "loha": tiny_adapters.loha(named),
            "lokr": tiny_adapters.lokr(named),
            "dora": dora,
        }.items():
            place = write(f"{name}-{own}.safetensors", state)
            yield model(place, "is a LoRA")
            for base in ("sdxl", "sd1"):
                fits = own == base or name == "text-alone"  # both have the same first encoder
                said = WORKS if fits else ANOTHER
                yield model(f"{base}.safetensors", said, f"--lora {place}:0.7")
    yield model("sdxl-inpaint.safetensors", more="--lora kohya-sdxl.safetensors")
    yield from adapters_of("kohya-sdxl.safetensors", "is a LoRA", but="lora")


def words(wild: Wild) -> Iterator[Case]:
    """Textual inversions."""
    for own in ("sdxl", "sd1"):
        held = tiny_adapters.embeddings(wild.pipe(own))
        place = write(
            f"word-{own}.safetensors", held if own == "sdxl" else {"emb_params": held["clip_l"]}
        )
        for base in ("sdxl", "sd1", "sd2"):
            said = "for text encoders of" if base == "sd2" else WORKS
            yield model(f"{base}.safetensors", said, f"--embedding {place}:zzz")
        yield model(place, "an embedding")
    yield from adapters_of("word-sdxl.safetensors", "an embedding", but="embedding")


def controls(wild: Wild) -> Iterator[Case]:
    """ControlNets and T2I-Adapters, in every form and on every family."""
    nets: dict[str, list[str]] = {}
    for own in UNETS:
        net = tiny_controls.controlnet(wild.parts[own]["unet"])
        net.save_pretrained(f"net-{own}")
        nets[own] = [
            f"net-{own}",
            write(f"net-{own}.safetensors", net.state_dict()),
            write(f"net-{own}-original.safetensors", tiny_controls.original_layout(net)),
        ]
        net.half().save_pretrained(f"net-{own}-fp16", variant="fp16")
        nets[own].append(f"net-{own}-fp16")
    for own, places in nets.items():
        for place in places:
            for base in UNETS:
                said = WORKS if own == base else ANOTHER
                yield model(f"{base}.safetensors", said, f"--control {place}=canny")
        yield model(places[1], "is a ControlNet")
    for own, kind in (("sdxl", "full_adapter_xl"), ("sd1", "full_adapter")):
        adapter = tiny_controls.t2i_adapter(wild.parts[own]["unet"], kind)
        adapter.save_pretrained(f"t2i-{own}")
        state = adapter.state_dict() if own == "sdxl" else tiny_controls.t2i_original(adapter)
        for place in (f"t2i-{own}", write(f"t2i-{own}.safetensors", state)):
            for base in UNETS:  # SD 2.x has the features of SD 1.x
                said = WORKS if (own == "sdxl") == (base == "sdxl") else ANOTHER
                yield model(f"{base}.safetensors", said, f"--control {place}=canny")
        yield model(f"t2i-{own}.safetensors", "is a T2I-Adapter")
    yield model("sdxl.safetensors", "hub cannot be reached", "--control canny")


def references(wild: Wild) -> Iterator[Case]:
    """IP-Adapters."""
    tiny_controls.image_reader()["image_encoder"].save_pretrained("image_encoder")
    for own in ("sdxl", "sd1"):
        made = tiny_controls.ip_adapter(wild.parts[own]["unet"])
        flat = {f"{table}.{name}": v for table, held in made.items() for name, v in held.items()}
        torch.save(made, f"ip-{own}.bin")
        for place in (write(f"ip-{own}.safetensors", flat), f"ip-{own}.bin"):
            for base in ("sdxl", "sd1"):
                said = WORKS if own == base else ANOTHER
                more = f"--ip-adapter {place}=photo.png:0.5"
                yield model(f"{base}.safetensors", said, more)
    yield from adapters_of("ip-sdxl.safetensors", "is an IP-Adapter", but="ip")


GROUPS = (checkpoints, garbage, inpainting, loras, controls, vaes, folders, words, references)


# --- as a user -----------------------------------------------------------------------------------


def wrong(case: Case) -> str:
    """What is not as it should be with a case; empty where all is."""
    from engine.cli import run

    told = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(told),
    ):
        code = run((EDIT + case.line).split())
    said, made = told.getvalue().strip(), Path("out.png")
    wrote = made.exists()
    made.unlink(missing_ok=True)
    if case.said == WORKS:
        return "" if code == 0 and wrote else f"does not work: {said}"
    if code == 0 or wrote:
        return f"works, or has written something: {said}"
    lines = [line for line in said.splitlines() if "warning" not in line]
    clear = len(lines) == 1 and "unexpected" not in said and re.search(case.said, said)
    return "" if clear else f"is not said as {case.said!r}: {said}"


def main() -> None:
    """Build, run and count."""
    folder, parts = Path(sys.argv[1]), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    tiny.picture(64).save("photo.png")
    tiny.box_mask().save("mask.png")
    wild = Wild()
    cases = [case for group in GROUPS for case in list(group(wild))]
    asked = [c for c in cases if not parts or any(part in c.name for part in parts)]
    bad = 0
    for case in asked:
        if fault := wrong(case):
            bad += 1
            sys.stdout.write(f"{case.name}: {fault}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(asked) - bad} of {len(asked)} are as they should be\n")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()

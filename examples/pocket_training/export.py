"""Between checkpoints and the shipped files: unpack, export, and the figures of what is there."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.pocket import FLOW_SHARES, world
from examples.pocket_training.classifier import classifier_accuracy
from examples.pocket_training.controlnets import ANNOTATORS, new_controlnet
from examples.pocket_training.data import SIZE, ImageBatch
from examples.pocket_training.diffusion import (
    TextToImage,
    draw_samples,
    held_out_captions,
    new_unet,
)
from examples.pocket_training.flow import finished_flow, shipped_vae
from examples.pocket_training.run import restore, save_checkpoint, trained
from examples.pocket_training.text import build_vocabulary
from examples.pocket_training.vae import finished_vae, vae_psnr


def stage_unpack(options: argparse.Namespace) -> None:
    """Write the exported weights as the checkpoints of their stages, which go on from them."""
    from diffusers import (
        AutoencoderKL,
        ControlNetModel,
        SD3Transformer2DModel,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from engine.pocket.gan import load_gan

    folder = options.model_dir / "model"
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    save_checkpoint(vae.state_dict(), options.out / "autoencoder.pt")
    model = TextToImage(options)
    for part, kind, name in (
        (model.unet, UNet2DConditionModel, "unet"),
        (model.first, CLIPTextModel, "text_encoder"),
        (model.second, CLIPTextModelWithProjection, "text_encoder_2"),
    ):
        shipped = kind.from_pretrained(folder / name, torch_dtype=torch.float32)
        part.load_state_dict(shipped.state_dict())
    save_checkpoint(_start(model.models), options.out / "unet.pt")
    gan = load_gan().requires_grad_(True)
    save_checkpoint(_start({"gan": gan}), options.out / "gan.pt")
    flow: Any = SD3Transformer2DModel.from_pretrained(
        options.model_dir / "flow" / "transformer", torch_dtype=torch.float32
    )
    save_checkpoint(_start({"transformer": flow}), options.out / "flow.pt")
    wide: Any = UNet2DConditionModel.from_pretrained(
        options.model_dir / "unet_inpaint", torch_dtype=torch.float32
    )
    save_checkpoint(_start({"unet": wide}), options.out / "inpaint9.pt")
    for name in (f"controlnet_{annotator}" for annotator in ANNOTATORS):
        controlnet: Any = ControlNetModel.from_pretrained(
            options.model_dir / name, torch_dtype=torch.float32
        )
        save_checkpoint(_start({"controlnet": controlnet}), options.out / f"{name}.pt")
    print(f"{options.model_dir} unpacked to {options.out}")


def _start(models: dict[str, torch.nn.Module]) -> dict[str, Any]:
    """The checkpoint of a stage that has not begun."""
    names, parameters = trained(models)
    averaged = [parameter.detach().clone() for parameter in parameters]
    return {
        "models": {key: module.state_dict() for key, module in models.items()},
        "averaged": dict(zip(names, averaged, strict=True)),
        "steps": 0,
        "spent": 0.0,
    }


# --------------------------------------------------------------------------------------------------
# Export and figures
# --------------------------------------------------------------------------------------------------


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder beside its place and rename it in, so that readers never see half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        write(fresh)
        fresh.chmod(0o755)
        for path in fresh.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-"))
            folder.rename(old / "gone")
            fresh.rename(folder)
            shutil.rmtree(old)
        else:
            fresh.rename(folder)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)


def stage_export(options: argparse.Namespace) -> None:
    """Write what is trained so far to ``--model-dir`` as fp16 safetensors: the model, the
    classifier, the 9 channels.
    """
    root = options.model_dir
    model = TextToImage(options)
    if (options.out / "unet.pt").exists():
        restore(model.models, options.out / "unet.pt", options.device)
        vae = finished_vae(options)
        pipe = model.pipeline(vae)
        for part in (pipe.vae, pipe.unet):
            part.to("cpu").half().to(memory_format=torch.contiguous_format)
        # transformers loads what was saved in halves as halves while diffusers makes it float32,
        # so a plain from_pretrained would mix the two: the small text encoders stay in float32
        for part in (pipe.text_encoder, pipe.text_encoder_2):
            part.to("cpu").float()
        replace_folder(root / "model", lambda folder: _write_model(pipe, folder))
        print(f"{root / 'model'}: {_megabytes(root / 'model'):.1f} MB")
    classifier = options.out / "classifier-final.pt"
    if classifier.exists():
        state = torch.load(classifier, map_location="cpu", weights_only=True)["classifier"]
        _write_weights(state, root / "classifier.safetensors")
    if (options.out / "inpaint9.pt").exists():
        unet = new_unet(9)
        restore({"unet": unet}, options.out / "inpaint9.pt", torch.device("cpu"))
        unet.half()
        replace_folder(root / "unet_inpaint", unet.save_pretrained)
        print(f"{root / 'unet_inpaint'}: {_megabytes(root / 'unet_inpaint'):.1f} MB")
    if (options.out / "gan.pt").exists():
        from engine.pocket.gan import InpaintingGan

        gan = InpaintingGan()
        restore({"gan": gan}, options.out / "gan.pt", torch.device("cpu"))
        _write_weights(gan.state_dict(), root / "gan.safetensors")
    for annotator in ANNOTATORS:
        name = f"controlnet_{annotator}"
        if (options.out / f"{name}.pt").exists():
            controlnet = new_controlnet(model.unet)
            checkpoint = options.out / f"{name}.pt"
            restore({"controlnet": controlnet}, checkpoint, torch.device("cpu"))
            controlnet.half()
            replace_folder(root / name, controlnet.save_pretrained)
            print(f"{root / name}: {_megabytes(root / name):.1f} MB")

    if (options.out / "flow.pt").exists():
        pipe = finished_flow(options).pipeline(shipped_vae())
        pipe.transformer.half()
        replace_folder(root / "flow", lambda folder: _write_flow(pipe, folder))
        print(f"{root / 'flow'}: {_megabytes(root / 'flow'):.1f} MB")


def _write_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    """As fp16 safetensors."""
    from safetensors.torch import save_file

    halves = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in state.items()
    }
    part = path.with_suffix(".part")
    save_file(halves, part)
    part.chmod(0o644)
    part.replace(path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _write_flow(pipe: Any, folder: Path) -> None:
    """The flow model as a folder of diffusers', but for what it shares with the model beside it."""
    pipe.save_pretrained(folder)
    _write_vocabulary(folder)
    for part in FLOW_SHARES:
        shutil.rmtree(folder / part)


def _write_model(pipe: Any, folder: Path) -> None:
    pipe.save_pretrained(folder)
    _write_vocabulary(folder)


def _write_vocabulary(folder: Path) -> None:
    """Beside the tokenizers."""
    vocabulary, merges = build_vocabulary([word for word in world.vocabulary() if len(word) > 1])
    for name in ("tokenizer", "tokenizer_2"):  # for readers older than tokenizer.json
        (folder / name / "vocab.json").write_text(
            json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8"
        )
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
        (folder / name / "merges.txt").write_text("\n".join(lines), encoding="utf-8")


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def adherence(images: ImageBatch, captions: Sequence[str], model: Any = None) -> dict[str, float]:
    """For each category the fraction of what the captions ask for that the classifier finds."""
    from engine.pocket.classifier import asked_and_found, predict

    hits: dict[str, list[bool]] = {}
    perfect = []
    for caption, found in zip(captions, predict(images, model), strict=True):
        points = asked_and_found(world.attributes_from_caption(caption), found)
        for name, hit in points:
            hits.setdefault(name, []).append(hit)
        perfect.append(all(hit for _, hit in points))
    figures = {name: float(np.mean(values)) for name, values in sorted(hits.items())}
    figures["everything asked"] = float(np.mean(perfect))
    figures["mean of all"] = float(np.mean([hit for values in hits.values() for hit in values]))
    return figures


def stage_evaluate_flow(options: argparse.Namespace) -> None:
    """Print how the exported flow model draws the captions of held-out scenes, and write a sheet of
    32 samples.
    """
    captions = held_out_captions(options.samples)
    started = time.monotonic()
    images = draw_with_engine("pocket-flow", captions)
    report = {
        "seconds a sample, in shared calls of 16": (time.monotonic() - started) / len(images),
        "adherence": adherence(images, captions),
    }
    print(json.dumps(report, indent=2), flush=True)
    path = options.sheet.with_name("pocket_flow_samples.png")
    labelled_sheet(images[:32], captions[:32], 8, path)
    print(f"samples: {path}")


def draw_with_engine(model: str, captions: Sequence[str]) -> ImageBatch:
    """Text to image by repainting all of a grey picture, sample i with seed i: N 128 128 3."""
    from engine import InpaintEngine

    engine = InpaintEngine.from_pretrained(model, device="cpu")
    grey = np.full((SIZE, SIZE, 3), 128, np.uint8)
    edits = [
        {
            "image": grey,
            "strength_map": np.ones((SIZE, SIZE), np.float32),
            "prompt": caption,
            "seed": seed,
            "strategy": "blend",
            "prefill": "original",
            "progress": False,
        }
        for seed, caption in enumerate(captions)
    ]
    made: list[Any] = []
    for first in range(0, len(edits), 16):
        made += engine.edit_many(edits[first : first + 16]).unwrap()
    return np.stack([np.asarray(each.images[0]) for each in made])


def labelled_sheet(images: ImageBatch, captions: Sequence[str], columns: int, path: Path) -> None:
    """Pictures with their captions underneath."""
    import textwrap

    from PIL import Image, ImageDraw, ImageFont

    side, text = images.shape[1], 44
    rows = math.ceil(len(images) / columns)
    page = Image.new("RGB", (columns * (side + 8) + 8, rows * (side + text + 8) + 8), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(10)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = 8 + i % columns * (side + 8), 8 + i // columns * (side + text + 8)
        page.paste(Image.fromarray(image), (x, y))
        for line, words in enumerate(textwrap.wrap(caption, 27)[:4]):
            pen.text((x, y + side + 1 + 10 * line), words, fill="black", font=font)
    page.save(path, optimize=True)


def stage_evaluate(options: argparse.Namespace) -> None:
    """Print the exported model's figures and write a sheet of 32 samples with their captions."""
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline

    folder = options.model_dir / "model"
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32).to(options.device)
    pipe.set_progress_bar_config(disable=True)
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(options.device)
    report: dict[str, Any] = {"vae psnr, dB": vae_psnr(vae, options, 200)}
    print(json.dumps(report), flush=True)
    report["classifier accuracy"] = classifier_accuracy(None, 1000)
    print(json.dumps(report["classifier accuracy"]), flush=True)
    captions = held_out_captions(options.samples)
    started = time.monotonic()
    images = draw_samples(pipe, captions)
    report["seconds a sample, in batches of 16"] = (time.monotonic() - started) / len(images)
    report["adherence"] = adherence(images, captions)
    truth = [
        world.render(world.sample_scene(world.HELD_OUT_SEEDS[5000 + i]), SIZE).image
        for i in range(len(captions))
    ]
    report["adherence of the renderer's own pictures"] = adherence(np.stack(truth), captions)
    print(json.dumps(report, indent=2), flush=True)
    (options.out / "figures.json").write_text(json.dumps(report, indent=2) + "\n")
    labelled_sheet(images[:32], captions[:32], 8, options.sheet)
    print(f"samples: {options.sheet}")

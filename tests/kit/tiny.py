"""Tiny real models: diffusers and transformers classes with random weights, made in a second."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from engine import InpaintEngine
from engine.errors import SoftpaintWarning
from engine.solvers.names import fresh_scheduler
from strategies import list_strategies

SIZE = 64
STRATEGIES = [name for name in list_strategies() if name not in {"fill", "whole"}]
"""Those for UNets of both kinds."""


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that knows single characters."""
    characters = [chr(code) for code in range(33, 127)]
    words = [*characters, *(f"{c}</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = {word: i for i, word in enumerate(words)}
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary))
        Path(folder, "merges.txt").write_text("#version: 0.2\n")
        loaded: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
        return loaded


def count_rows(monkeypatch: Any, module: Any) -> list[int]:
    """The rows of each forward of ``module`` from now on."""
    forward, rows = module.forward, []

    def counting(sample: Any, *others: Any, **named: Any) -> Any:
        rows.append(len(sample))
        return forward(sample, *others, **named)

    monkeypatch.setattr(module, "forward", counting)
    return rows


def unet(in_channels: int = 4, *, sdxl: bool = True, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    added: dict[str, Any] = {}
    if sdxl:
        added = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 32 + 6 * 8,
        }
    model: Any = UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=64 if sdxl else 32,
        norm_num_groups=16,
        use_linear_projection=True,
        **added,
    )
    return model.eval()


def modules(in_channels: int = 4, *, sdxl: bool = True, seed: int = 0) -> dict[str, Any]:
    """The components of a pipeline, by diffusers' names."""
    torch.manual_seed(seed)
    vae: Any = AutoencoderKL(
        block_out_channels=[16, 16, 16, 16],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        norm_num_groups=8,
    )
    tokens = tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
        pad_token_id=len(tokens) - 1,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    parts = {
        "unet": unet(in_channels, sdxl=sdxl, seed=seed),
        "vae": vae.eval(),
        "text_encoder": CLIPTextModel(config).eval(),
        "tokenizer": tokens,
        "scheduler": scheduler,
    }
    if sdxl:
        parts |= {
            "text_encoder_2": CLIPTextModelWithProjection(config).eval(),
            "tokenizer_2": tokens,
        }
    else:
        parts |= {"safety_checker": None, "feature_extractor": None}
    return parts


def engine(*, inpaint: bool = True) -> InpaintEngine:
    """A tiny SDXL, with a 9-channel network beside the other or without."""
    pipe = StableDiffusionXLPipeline(**modules())
    return InpaintEngine.from_pipe(pipe, unet(9, seed=1) if inpaint else None)


@contextmanager
def loaded() -> Iterator[InpaintEngine]:
    """The tiny engine, which every command of this process loads meanwhile."""
    own = engine()
    with mock.patch.object(InpaintEngine, "from_pretrained", return_value=own):
        yield own


def picture(size: int = SIZE, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))


def box_mask(size: int = SIZE) -> Image.Image:
    mask = np.zeros((size, size), np.uint8)
    mask[size // 4 : 3 * size // 4, size // 8 : size // 2] = 255
    return Image.fromarray(mask)


def edited(engine: Any, **changes: Any) -> Any:
    """The result of a whole picture repainted in four steps, as latents."""
    settings: dict[str, Any] = {
        "image": picture(),
        "strength_map": np.ones((SIZE, SIZE), np.float32),
        "prompt": "a red house",
        "num_inference_steps": 4,
        "seed": 2,
        "output_type": "latent",
    }
    return engine.edit(**{**settings, **changes})


def both(
    kind: Any,
    parts: dict[str, Any],
    strategy: str,
    *,
    scheduler: str = "euler",
    num_images: int = 1,
    theirs: Mapping[str, Any] = MappingProxyType({}),
    ours: Mapping[str, Any] = MappingProxyType({}),
    extra: Mapping[str, Any] = MappingProxyType({}),
    **changes: Any,
) -> tuple[Any, Any]:
    """The images of diffusers' inpainting pipeline ``kind`` and of the engine for one request,
    from the same module objects.

    ``changes`` go to both, ``theirs`` and ``ours`` to one side; ``extra`` are components that only
    the pipeline has.
    """
    request: dict[str, Any] = {
        "image": picture(),
        "prompt": "a red house",
        "strength": 1.0,
        "num_inference_steps": 5,
        "guidance_scale": 5.0,
        "output_type": "np",
        **changes,
    }
    own = fresh_scheduler(scheduler, parts["scheduler"])
    pipe = kind(**{**parts, "scheduler": own}, **extra)
    pipe.set_progress_bar_config(disable=True)
    size = {"height": SIZE, "width": SIZE, "num_images_per_prompt": num_images}
    drawn = {"generator": torch.Generator().manual_seed(3)}
    want = pipe(mask_image=box_mask(), **size, **{**request, **drawn, **theirs}).images
    settings = {"seed": 3, "num_images": num_images, "scheduler": scheduler, "mask": box_mask()}
    with warnings.catch_warnings():  # that the pipeline's ControlNet is ours only as a control
        warnings.simplefilter("ignore", SoftpaintWarning)
        engine = InpaintEngine.from_pipe(pipe)
    own_way = {**request, **settings, **ours}
    got = engine.edit(strategy=strategy, compat="diffusers", **own_way)
    return want, got.images


def difference(pair: tuple[np.ndarray, np.ndarray]) -> float:
    """The largest difference of two arrays of one shape."""
    want, got = pair
    assert want.shape == got.shape
    return float(np.abs(want - got).max())

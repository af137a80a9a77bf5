"""From a name, a folder, a hub id or a file to a loaded pipeline."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engine.errors import InputError, ModelError
from engine.models.base import Backbone, Network
from engine.models.checkpoints import find_checkpoint, hint
from engine.models.families.sd import SDBackbone
from engine.models.families.sdxl import SDXLBackbone

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def resolve_dtype(dtype: Any, device: Any) -> Any:
    """``dtype`` (None, a torch dtype or its name): float16 on a GPU, float32 on the CPU if None."""
    import torch

    if dtype is None:
        return torch.float32 if torch.device(device).type == "cpu" else torch.float16
    if isinstance(dtype, str):
        named = getattr(torch, dtype, None)
        if named not in (torch.float16, torch.bfloat16, torch.float32):
            raise InputError(f"unknown dtype {dtype!r}; accepted: float16, bfloat16, float32.")
        return named
    return dtype


def resolve_device(device: Any) -> Any:
    """``device`` or the best one that is there. Raises ``InputError`` for one that is not."""
    import torch

    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {device!r} cannot be used here: {_first_line(error)}") from error
    return resolved


def load_pipeline(model: str | os.PathLike[str], dtype: Any, device: Any) -> Any:
    """A diffusers pipeline from a known name, a folder, a hub id or a single checkpoint file.

    Raises:
        ModelError: nothing usable is there, or the hub cannot be reached.
    """
    import diffusers

    source = _locate(model)
    if isinstance(source, Path) and source.is_file():
        pipe = _single_file(source, dtype)
    else:
        pipe = _guarded(
            lambda: diffusers.DiffusionPipeline.from_pretrained(str(source), dtype=dtype),
            model,
        )
    return pipe.to(device)


def load_inpaint_network(model: str | os.PathLike[str], dtype: Any, device: Any) -> Network:
    """The 9-channel UNet of an inpainting checkpoint: its pipeline folder or hub id, or a folder
    that holds only the UNet.

    Raises:
        ModelError: there is none, or it does not have 9 input channels.
    """
    from diffusers import UNet2DConditionModel

    source = _locate(model, index="config.json")
    folder = isinstance(source, Path) and (source / "config.json").is_file()
    kwargs: dict[str, Any] = {} if folder else {"subfolder": "unet"}
    unet = _guarded(
        lambda: UNet2DConditionModel.from_pretrained(str(source), dtype=dtype, **kwargs),
        model,
    )
    if unet.config.in_channels != 9:
        raise ModelError(
            f"{model} is no inpainting checkpoint: its UNet has {unet.config.in_channels} input "
            "channels, not 9."
        )
    return Network(unet.to(device))


def load_preview_vae(model: str | os.PathLike[str], channels: int, dtype: Any, device: Any) -> Any:
    """The ``AutoencoderTiny`` in a folder or behind a hub id.

    Raises:
        ModelError: there is none, or it is made for latents of other than ``channels`` channels.
    """
    from diffusers import AutoencoderTiny

    source = _locate(model, index="config.json")
    if "AutoencoderTiny" not in _guarded(lambda: _config_file(source).read_text("utf-8"), model):
        raise ModelError(f"{model} holds no AutoencoderTiny (such as madebyollin/taesdxl does).")
    vae = _guarded(lambda: AutoencoderTiny.from_pretrained(str(source), dtype=dtype), model)
    if vae.config.latent_channels != channels:
        raise ModelError(
            f"{model} is for latents of {vae.config.latent_channels} channels; this model's have "
            f"{channels}."
        )
    return vae.to(device).eval()


def load_controlnet(model: str | os.PathLike[str], unet: Any, dtype: Any, device: Any) -> Any:
    """A ControlNet or ControlNet-Union for models with this ``unet``.

    ``model``: a folder, a hub id, a ``.safetensors`` file in diffusers' or the original layout, or
    ``MODEL:CONTROL`` (a known model's own, such as ``pocket:canny``).

    Raises:
        ModelError: there is none, it cannot be read, or a file does not fit the ``unet``.
    """
    from diffusers import ControlNetModel, ControlNetUnionModel

    source: Path | str
    owner, _, name = str(model).partition(":")
    if name and (checkpoint := find_checkpoint(owner)) is not None:
        known = checkpoint.controlnets or {}
        if name not in known:
            raise ModelError(
                f"this version carries no {name!r} ControlNet for the {owner} model; it has "
                f"{', '.join(known) or 'none'}."
            )
        source = known[name]
    else:
        source = _locate(model, index="config.json")
    if isinstance(source, Path) and source.is_file():
        net = _single_controlnet(source, unet)
    else:
        config = _guarded(lambda: _config_file(source).read_text(encoding="utf-8"), model)
        union = "Union" in config  # in the name of the class
        kind = ControlNetUnionModel if union else ControlNetModel
        net = _guarded(lambda: kind.from_pretrained(str(source), dtype=dtype), model)
    net = net.to(device).eval()
    return net if net.dtype == dtype else net.to(dtype)


def _config_file(source: Path | str) -> Path:
    """The configuration in a folder or behind a hub id."""
    from huggingface_hub import hf_hub_download

    if isinstance(source, Path):
        return source / "config.json"
    return Path(hf_hub_download(source, "config.json"))


def _single_controlnet(path: Path, unet: Any) -> Any:
    """A ControlNet from one file. It holds no configuration: the UNet's tells the levels, the
    weights' own shapes the rest.
    """
    from diffusers import ControlNetModel, ControlNetUnionModel
    from diffusers.configuration_utils import FrozenDict
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable .safetensors file: {error}") from error
    union = "task_embedding" in weights
    kind = ControlNetUnionModel if union else ControlNetModel
    # An IP-Adapter in the UNet is noted in its configuration; ControlNets have no part in it.
    config = FrozenDict({**unet.config, "encoder_hid_dim_type": None, "encoder_hid_dim": None})
    template = kind.from_unet(SimpleNamespace(config=config), load_weights_from_unet=False)
    if not union:
        weights = convert_controlnet_checkpoint(weights, template.config)
    keys = [key for key in weights if key.startswith("controlnet_cond_embedding.")]
    if not keys:
        raise ModelError(f"{path} is no ControlNet.")
    width = next((w.shape[1] for key, w in weights.items() if "attn2.to_k.weight" in key), None)
    if width != unet.config.cross_attention_dim:
        raise ModelError(
            f"{path} is a ControlNet of another family: it takes text embeddings of {width} "
            f"dimensions, the model's have {unet.config.cross_attention_dim}."
        )
    stem = "controlnet_cond_embedding."
    halvings = sum(key.startswith(f"{stem}blocks.") and key.endswith(".weight") for key in keys)
    steps = [f"{stem}blocks.{number}.weight" for number in range(1, halvings, 2)]
    first = weights[f"{stem}conv_in.weight"]
    changes = {
        "in_channels": weights["conv_in.weight"].shape[1],
        "conditioning_channels": first.shape[1],
        "conditioning_embedding_out_channels": [
            first.shape[0],
            *(weights[key].shape[0] for key in steps),
        ],
    }
    if union:
        changes["num_control_type"], changes["num_trans_channel"] = weights["task_embedding"].shape
        changes["num_proj_channel"] = weights["spatial_ch_projs.weight"].shape[0]
    # Not the private entries: one of them lists what a default is to replace.
    known = {key: value for key, value in template.config.items() if not key.startswith("_")}
    net = kind.from_config({**known, **changes})
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{path} does not fit this model's UNet; if it is a ControlNet with other levels "
            "(a small one), give its folder, which holds its configuration."
        ) from error
    return net


def backbone_for(pipe: Any, inpaint_network: Network | None = None) -> Backbone:
    """The adapter for a loaded pipeline. Nothing in ``pipe`` is changed.

    Raises:
        ModelError: the pipeline is of a family that is not supported.
    """
    unet = getattr(pipe, "unet", None)
    if unet is None or getattr(pipe, "vae", None) is None:
        raise ModelError(
            f"{type(pipe).__name__} has no UNet and VAE; supported families: SDXL, SD 1.x, SD 2.x."
        )
    kinds = {4: "base", 9: "inpaint"}
    if unet.config.in_channels not in kinds:
        raise ModelError(
            f"the UNet of {type(pipe).__name__} has {unet.config.in_channels} input channels; "
            "4 (text to image) or 9 (inpainting) are supported."
        )
    networks = {kinds[unet.config.in_channels]: Network(unet)}
    if inpaint_network is not None:
        if inpaint_network.in_channels != 9:
            raise ModelError(
                f"the inpainting UNet has {inpaint_network.in_channels} input channels, not 9."
            )
        ours, theirs = unet.config.cross_attention_dim, inpaint_network.unet.config
        if theirs.cross_attention_dim != ours:
            raise ModelError(
                "the inpainting UNet is of another family: it takes text embeddings of "
                f"{theirs.cross_attention_dim} dimensions, the model's have {ours}."
            )
        networks["inpaint"] = inpaint_network
    added = getattr(unet.config, "addition_embed_type", None)
    if added == "text_time" and hasattr(pipe, "text_encoder_2"):
        return SDXLBackbone(pipe, networks)
    if added is None and hasattr(pipe, "text_encoder"):
        return SDBackbone(pipe, networks)
    raise ModelError(
        f"{type(pipe).__name__} is of a family that is not supported yet; "
        "supported: SDXL, SD 1.x, SD 2.x."
    )


def default_inpaint_model(model: str | os.PathLike[str]) -> Path | None:
    """Where the 9-channel UNet of ``model`` is, as far as that is known."""
    checkpoint = find_checkpoint(model)
    return checkpoint.inpaint_model if checkpoint else None


def _locate(model: str | os.PathLike[str], index: str = "model_index.json") -> Path | str:
    """A path that exists, or a hub id."""
    if (checkpoint := find_checkpoint(model)) is not None:
        if not (checkpoint.folder / "model_index.json").is_file():
            raise ModelError(
                f"the {checkpoint.name} model is not in this installation: {checkpoint.folder} has "
                "no model_index.json."
            )
        return checkpoint.folder
    path = Path(model).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelError(f"{model} is not a .safetensors checkpoint.")
        return path
    if path.is_dir():
        if not any((path / name).is_file() for name in {index, "model_index.json"}):
            raise ModelError(f"{model} is no diffusers model folder: it has no {index}. {hint()}")
        return path
    if not isinstance(model, str) or not HUB_ID.match(model):
        raise ModelError(f"there is no model at {model}. {hint()}")
    return model


def _single_file(path: Path, dtype: Any) -> Any:
    """A checkpoint in one file; which family it is shows in the names of its tensors."""
    import diffusers
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            keys = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable .safetensors file: {error}") from error
    if not any(key.startswith("model.diffusion_model.") for key in keys):
        raise ModelError(f"{path} is no full Stable Diffusion checkpoint: it holds no UNet.")
    sdxl = any(key.startswith("conditioner.embedders.1.") for key in keys)
    pipeline = diffusers.StableDiffusionXLPipeline if sdxl else diffusers.StableDiffusionPipeline
    return _guarded(lambda: pipeline.from_single_file(str(path), dtype=dtype), path)


def _guarded(load: Any, model: Any) -> Any:
    """Run ``load``; say in one line what went wrong."""
    try:
        with no_loading_bars():
            return load()
    except (OSError, ValueError, json.JSONDecodeError, KeyError) as error:
        if _looks_unreachable(error) and not Path(model).exists():
            raise ModelError(
                f"{model} is not here and the model hub cannot be reached. {hint()}"
            ) from error
        raise ModelError(f"{model} could not be loaded: {_first_line(error)}") from error


@contextmanager
def no_loading_bars() -> Iterator[None]:
    """Without the libraries' bars for reading a folder (downloads keep theirs)."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [
        library
        for library in (diffusers_logging, transformers_logging)
        if library.is_progress_bar_enabled()
    ]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _looks_unreachable(error: BaseException) -> bool:
    """Whether a load failed for want of the network (hub errors chain the transport's)."""
    seen: BaseException | None = error
    while seen is not None:
        name = type(seen).__name__
        if "Connect" in name or name in ("LocalEntryNotFoundError", "OfflineModeIsEnabled"):
            return True
        if isinstance(seen, (ConnectionError, TimeoutError)):
            return True
        seen = seen.__cause__ or seen.__context__
    text = str(error).lower()
    return "couldn't connect" in text or "connection" in text or "offline" in text


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))

"""A model from what ``InpaintEngine.from_pretrained`` is given."""

from __future__ import annotations

import os
from typing import Any

from engine.errors import InputError
from engine.models.backbone import Backbone, backbone_for
from engine.models.checkpoints import find_checkpoint
from engine.models.formats.devices import resolve_device
from engine.models.formats.folders import default_inpaint_model, load_inpaint_unet, load_pipeline
from engine.models.state import dtype_of


def open_model(
    *,
    model: str | os.PathLike[str],
    inpaint_model: str | os.PathLike[str] | None,
    inpaint_patch: Any,
    dtype: Any,
    device: Any,
    vae: str | os.PathLike[str] | None,
    prediction_type: str | None,
    base: str | os.PathLike[str] | None = None,
    text_encoder: Any = None,
) -> Backbone:
    """The loaded model; :meth:`engine.engine.InpaintEngine.from_pretrained` says what is what.

    Raises:
        InputError: a dtype, device or prediction type that cannot be used.
        ModelError: the model is missing, unreachable or of an unsupported family.
    """
    if inpaint_patch and inpaint_model:
        raise InputError("give either inpaint_model= or inpaint_patch=, not both.")
    device = resolve_device(device)
    loaded = load_pipeline(
        model,
        dtype,
        device,
        vae=vae,
        prediction_type=prediction_type,
        base=base,
        text_encoder=text_encoder,
    )
    inpaint = None
    if (inpaint_patch or inpaint_model) and not hasattr(loaded.pipe, "unet"):
        raise InputError(
            f"{model} has no UNet that a 9-channel one would stand beside: inpaint_model= and "
            "inpaint_patch= are for SD and SDXL."
        )
    if inpaint_patch:
        from engine.models.formats.patch import patched_unet

        inpaint = patched_unet(loaded.pipe.unet, inpaint_patch)
    elif inpaint_model := inpaint_model or default_inpaint_model(model):
        like = loaded.pipe.unet
        inpaint = load_inpaint_unet(inpaint_model, like, dtype_of(like), device)
    backbone = backbone_for(loaded.pipe, inpaint)
    backbone.checkpoint = find_checkpoint(model)
    known = backbone.checkpoint.defaults if backbone.checkpoint else {}
    backbone.defaults = {**backbone.defaults, **known, **loaded.defaults}
    backbone.notes = (*loaded.notes, *backbone.notes)
    return backbone

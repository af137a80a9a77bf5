"""IP-Adapters (Ye et al. 2023) that diffusers' own loader put into a pipeline's UNet.

Loading, scales for single blocks and unloading are the pipeline's: ``load_ip_adapter``,
``set_ip_adapter_scale``, ``unload_ip_adapter``. Here is what the engine needs beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import InputError, ModelError

if TYPE_CHECKING:
    import torch
    from PIL import Image


def image_projections(unet: Any) -> Any:
    """The module that projects the image embeddings of all adapters in ``unet``; None without."""
    if getattr(unet.config, "encoder_hid_dim_type", None) != "ip_image_proj":
        return None
    return unet.encoder_hid_proj


def encode_images(
    pipe: Any, images: Sequence[Image.Image], adapter: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative and positive embeddings (1 n ... each) of ``images`` for one of the adapters, as
    diffusers' ``prepare_ip_adapter_image_embeds`` makes them.

    Raises:
        InputError: the pipeline has no image encoder.
    """
    from diffusers.models.embeddings import ImageProjection

    layer = image_projections(pipe.unet).image_projection_layers[adapter]
    if "FaceID" in type(layer).__name__:
        raise InputError(
            "this IP-Adapter is a FaceID, which reads embeddings of a face (insightface makes "
            "them), not pictures: give Reference(embeds=...)."
        )
    if getattr(pipe, "image_encoder", None) is None:
        raise InputError(
            "the IP-Adapter was loaded without an image encoder, so it cannot read pictures; give "
            "Reference(embeds=...), or load it with one (image_encoder_folder=)."
        )
    hidden = not isinstance(layer, ImageProjection)
    device = pipe._execution_device  # noqa: SLF001 - honours accelerate's offload hooks
    positive, negative = pipe.encode_image(list(images), device, 1, hidden)
    return negative[None], positive[None]


def lend_adapters(source: Any, target: Any, lent: Any) -> Any:
    """Keep the adapters of ``target`` equal to those of ``source``, another UNet of its family:
    diffusers' loader knows only the pipeline's own.

    The modules are shared, not copied. ``lent`` is what the last call returned (None before): the
    projections that ``target`` has from here, so that they are taken back when ``source`` loses
    them, and ``target``'s own are left alone.
    """
    from diffusers.models.attention_processor import AttnProcessor2_0

    ours, theirs = image_projections(source), image_projections(target)
    if ours is theirs or (ours is None and theirs is not lent):
        return lent
    given, own = _processors(source), _processors(target)
    if ours is None:
        processors = {n: AttnProcessor2_0() if _adapts(p) else p for n, p in own.items()}
    elif given.keys() != own.keys():
        raise ModelError("the IP-Adapter does not fit the inpainting UNet: its layers differ.")
    else:
        processors = {name: given[name] if _adapts(given[name]) else own[name] for name in own}
    target.encoder_hid_proj = None  # its processors are not the network's
    target.set_attn_processor(processors)
    target.encoder_hid_proj = ours
    target.config.encoder_hid_dim_type = "ip_image_proj" if ours is not None else None
    return ours


def _processors(unet: Any) -> dict[str, Any]:
    """Of the network's own attentions: IP-Adapter Plus has some in its projections."""
    every = unet.attn_processors.items()
    return {name: each for name, each in every if not name.startswith("encoder_hid_proj.")}


def _adapts(processor: Any) -> bool:
    return hasattr(processor, "to_k_ip")

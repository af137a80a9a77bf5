"""What a single file's network predicts, and with which noise schedule: from marks in the file,
from its name, or measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import InputError

if TYPE_CHECKING:
    from engine.models.header import Header
    from engine.models.layout import Layout

PREDICTION_TYPES = ("epsilon", "v_prediction")
"""What ``prediction_type`` accepts, in diffusers' words: noise and velocity."""
_NAMED = re.compile(r"(?<![a-z])v[-_ ]?pred", re.IGNORECASE)
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""A schedule that ends in pure noise (Lin et al. 2023), and a run that begins there."""
NOISE = 0.5
"""Share of its input's noise above which a network counts as one that predicts noise."""


@dataclass(frozen=True)
class Prediction:
    """A scheduler, and what belongs to its convention."""

    scheduler: str
    """The class in diffusers."""
    config: dict[str, Any]
    """Its arguments."""
    note: str = ""
    """What is unusual about it, and how that is known; for the user."""
    vae: dict[str, Any] = field(default_factory=dict)
    """What is other in the VAE's config."""
    sample_size: int | None = None
    """Latent cells a side of what it was trained on, where it is not the layout's."""


def check_prediction_type(name: str | None) -> None:
    """Raise ``InputError`` for a ``prediction_type`` that is not accepted."""
    if name is not None and name not in PREDICTION_TYPES:
        raise InputError(
            f"unknown prediction_type {name!r}; accepted: {', '.join(PREDICTION_TYPES)}."
        )


def prediction_in(
    header: Header, layout: Layout, known: dict[str, Any], asked: str | None, share: Any
) -> Prediction:
    """What a whole model's file says of its prediction.

    Args:
        header: of the file. Trainers and ComfyUI write tensors named ``v_pred``, ``ztsnr``,
            ``edm_mean``, ``edm_vpred.sigma_max`` as marks.
        layout: of the file.
        known: the scheduler's config of its layout, with ``_class_name``.
        asked: what the user says; None for what the file is found to be.
        share: a function without arguments that measures :func:`noise_share` of the network.
    """
    config = dict(known)
    kind = config.pop("_class_name")
    if "edm_mean" in header:
        return Prediction(
            "EDMDPMSolverMultistepScheduler",
            {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0},
            "EDM's preconditioning (it holds edm_mean)",
            {"scaling_factor": 0.5},
        )
    if "edm_vpred.sigma_max" in header:
        return Prediction(
            "EDMEulerScheduler",
            {
                "sigma_data": 1.0,
                "sigma_min": 0.002,
                "sigma_max": 120.0,
                "prediction_type": "v_prediction",
            },
            "EDM's preconditioning with velocity (it holds edm_vpred.sigma_max)",
        )
    predicts, reason = asked, "as asked for"
    if predicts is None:
        predicts, reason = _found(header, layout, share)
    config["prediction_type"] = predicts
    note = f"predicts velocity ({reason})" if predicts == "v_prediction" else ""
    if "ztsnr" in header:
        kind, config = "EulerDiscreteScheduler", {**config, **ZERO_SNR}
        note = f"{note}, zero terminal SNR (it holds ztsnr)".removeprefix(", ")
    if layout.measured and not note:
        note = f"predicts noise ({reason})"
    large = layout.measured and predicts == "v_prediction"
    return Prediction(kind, config, note, sample_size=96 if large else None)


def _found(header: Header, layout: Layout, share: Any) -> tuple[str, str]:
    """The prediction type of a file, and how it is known."""
    if "v_pred" in header:
        return "v_prediction", "it holds v_pred"
    if header.metadata.get("modelspec.prediction_type", "") in {"v", "v_prediction"}:
        return "v_prediction", "its metadata say so"
    if not layout.measured:
        named = _NAMED.search(header.path.stem) is not None
        return ("v_prediction", "by its name") if named else ("epsilon", "")
    measured = share()
    found = "epsilon" if measured > NOISE else "v_prediction"
    return found, f"measured: {measured:.0%} of its input's noise comes back at t = 999"


def noise_share(unet: Any, text: Any) -> float:
    """How much of its input a ``unet`` gives back where that is nearly pure noise, at t = 999: the
    coefficient of ``prediction = share * input``, by least squares.

    A network that predicts noise gives its input back (1). One that predicts velocity gives minus
    the clean picture and little of the noise: with ``v = alpha noise - sigma x0`` the coefficient
    is alpha, .07 for Stable Diffusion's schedule.

    Args:
        unet: diffusers', that takes latents alone.
        text: embedded prompt, 1 n d.
    """
    import torch

    side = 8 * 2 ** (len(unet.config.block_out_channels) - 3)
    shape = (1, unet.config.in_channels, side, side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(text)
    with torch.no_grad():
        time = torch.tensor(999, device=text.device)
        prediction = unet(noise, time, encoder_hidden_states=text, return_dict=False)[0]
    given, back = noise.double().flatten(), prediction.double().flatten()
    return float(given @ back / (given @ given))

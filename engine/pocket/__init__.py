"""The pocket model: a small SDXL-shaped family that travels with the package, and the world it was
trained on.

Cheap to import: no torch, no OpenCV. See ``README.md`` beside this file for what the model can do
and what not.
"""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = [
    "FLOW_SHARES",
    "controlnet_paths",
    "flow_folder",
    "gan_path",
    "inpaint_unet_path",
    "model_folder",
    "model_path",
    "save_flow",
]

FLOW_SHARES = ("vae", "text_encoder_2")
"""Parts of the flow model that are the other model's own."""
_HERE = Path(__file__).resolve().parent


def model_folder() -> Path:
    """Where the model is, or would be if this installation has none."""
    return _HERE / "model"


def gan_path() -> Path | None:
    """The file of the GAN's weights, or ``None`` where this version ships none."""
    path = _HERE / "gan.safetensors"
    return path if path.is_file() else None


def model_path() -> Path:
    """The folder that ``StableDiffusionXLPipeline.from_pretrained`` and its inpainting sister load.

    Raises ``FileNotFoundError`` if the package was installed without its weights.
    """
    folder = model_folder()
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"the pocket model is not in this installation: {folder} has no model_index.json"
        )
    return folder


def flow_folder() -> Path:
    """Where the flow model is, or would be if this installation has none: what of it is not among
    :data:`FLOW_SHARES`.
    """
    return _HERE / "flow"


def save_flow(folder: str | Path) -> Path:
    """Write the whole flow model to ``folder``, as diffusers' ``StableDiffusion3Pipeline`` loads
    it; gives ``folder``.

    Raises ``FileNotFoundError`` if the package was installed without its weights, and
    ``FileExistsError`` if there is a folder of that name.
    """
    made = Path(folder)
    shutil.copytree(flow_folder(), made)
    for part in FLOW_SHARES:
        shutil.copytree(model_path() / part, made / part)
    return made


def inpaint_unet_path() -> Path | None:
    """The folder of the 9-channel inpainting UNet, or ``None`` where this version ships none."""
    folder = _HERE / "unet_inpaint"
    return folder if (folder / "config.json").is_file() else None


def controlnet_paths() -> dict[str, Path]:
    """The folders of the family's ControlNets, by the controls' names; empty without any."""
    configs = sorted(_HERE.glob("controlnet_*/config.json"))
    return {config.parent.name.removeprefix("controlnet_"): config.parent for config in configs}

"""Train the pocket model: a small SDXL-shaped family that draws ``engine.pocket.world``.

One command per stage; each stops after ``--minutes``, resumes from its checkpoint in ``--out`` and
writes a log and a sample sheet beside it. Learning rates are scheduled against the time budget, not
against a number of steps::

    python examples/train_pocket.py render                       # cache training scenes (uint8)
    python examples/train_pocket.py vae --minutes 35             # autoencoder
    python examples/train_pocket.py latents                      # freeze the encoder, cache latents
    python examples/train_pocket.py decoder --minutes 60         # go on with the decoder alone
    python examples/train_pocket.py unet --minutes 60            # UNet and both text encoders
    python examples/train_pocket.py classifier --minutes 6       # reads attributes, scores samples
    python examples/train_pocket.py inpaint9 --minutes 25        # the 9-channel UNet
    python examples/train_pocket.py controlnet --annotator canny --minutes 40   # or depth
    python examples/train_pocket.py gan --minutes 25             # fills holes in one pass
    python examples/train_pocket.py flow --minutes 100           # the flow transformer
    python examples/train_pocket.py export                       # write engine/pocket/model
    python examples/train_pocket.py evaluate                     # figures, and a sheet of samples
    python examples/train_pocket.py evaluate-flow                # the same of the flow model
    python examples/train_pocket.py all                          # the whole chain in that order

``--stage vae`` says the same as ``vae``. Any torch device works (``--device cuda``); the defaults
are for two CPU cores and an afternoon.

To go on with a shipped network, the parts beside it left as they are, unpack them all first::

    python examples/train_pocket.py unpack                       # checkpoints from --model-dir
    python examples/train_pocket.py render
    python examples/train_pocket.py latents
    python examples/train_pocket.py controlnet --annotator canny --again --lr 3e-4 --minutes 60
    python examples/train_pocket.py unet --again --keep-text --lr 6e-4 --minutes 100
    python examples/train_pocket.py flow --again --lr 1e-3 --batch 96 --minutes 75

On a GPU the networks are compiled and batches are made ahead by ``--workers`` processes: give it
large ones (``--batch 512``) and a rate for them (``--lr 1.2e-3``). No GPU has run this yet.

The stages themselves are in ``examples/pocket_training``.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import torch

# a script finds its own folder only; the stages are modules of the repository
sys.path.append(str(Path(__file__).resolve().parent.parent))

from engine.pocket import world
from examples.pocket_training.classifier import stage_classifier
from examples.pocket_training.controlnets import ANNOTATORS, stage_controlnet
from examples.pocket_training.data import stage_render
from examples.pocket_training.diffusion import stage_unet
from examples.pocket_training.export import (
    stage_evaluate,
    stage_evaluate_flow,
    stage_export,
    stage_unpack,
)
from examples.pocket_training.flow import stage_flow
from examples.pocket_training.gan import stage_gan
from examples.pocket_training.inpainting import stage_inpaint9
from examples.pocket_training.vae import stage_decoder, stage_latents, stage_vae

STAGES: dict[str, tuple[Callable[[argparse.Namespace], None], float]] = {
    "render": (stage_render, 0),
    "vae": (stage_vae, 35),
    "latents": (stage_latents, 0),
    "decoder": (stage_decoder, 60),
    "unet": (stage_unet, 60),
    "classifier": (stage_classifier, 6),
    "inpaint9": (stage_inpaint9, 60),
    "controlnet": (stage_controlnet, 40),
    "gan": (stage_gan, 25),
    "flow": (stage_flow, 100),
    "export": (stage_export, 0),
    "evaluate": (stage_evaluate, 0),
}
"""Each stage of the chain with its default minutes."""
ON_REQUEST = {"unpack": (stage_unpack, 0.0), "evaluate-flow": (stage_evaluate_flow, 0.0)}
"""Stages that are no link of the chain."""


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Exits with 2 where no stage is named, or two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*STAGES, *ON_REQUEST, "all"]
    parser.add_argument("stage", nargs="?", choices=names)
    parser.add_argument(
        "--stage", dest="named", choices=names, metavar="NAME", help="another way to name the stage"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("pocket-training"), help="folder of caches and checkpoints"
    )
    parser.add_argument("--minutes", type=float, help="time budget of the stage")
    parser.add_argument("--scenes", type=int, default=30_000, help="training scenes to cache")
    parser.add_argument(
        "--latents", type=int, default=30_000, help="scenes whose latents are cached"
    )
    parser.add_argument("--photos", type=int, default=2_000, help="crops of photographs to encode")
    parser.add_argument(
        "--masks", type=int, default=20_000, help="masked scenes for the 9-channel UNet"
    )
    parser.add_argument(
        "--annotator",
        choices=ANNOTATORS,
        help="what controlnet trains on; both in turn if not given",
    )
    parser.add_argument("--samples", type=int, default=256, help="samples that evaluate draws")
    parser.add_argument(
        "--model-dir",
        type=Path,
        default=Path(world.__file__).parents[1],
        help="where export writes",
    )
    parser.add_argument(
        "--sheet", type=Path, default=Path(__file__).with_name("pocket_samples.png")
    )
    parser.add_argument(
        "--keep-text",
        action="store_true",
        help="train the UNet alone: the 9-channel UNet, the ControlNets and the flow model, which "
        "read the same text encoders, stay right",
    )
    parser.add_argument(
        "--lr",
        type=float,
        help="peak learning rate [default: each stage's own, for small batches]",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=48,
        help="samples in one step; the decoder takes a third of it",
    )
    parser.add_argument(
        "--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that make batches ahead [default: none beside a CPU, beside a GPU as many "
        "as there are cores, at most 12]",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads")
    parser.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train under bfloat16 autocast",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="keep the weights and start a new learning rate schedule",
    )
    parser.add_argument("--fresh", action="store_true", help="ignore the stage's checkpoint")
    options = parser.parse_args(arguments)
    if options.stage is None and options.named is None:
        parser.error(f"name a stage: {', '.join(names)}")
    if options.stage is None:
        options.stage = options.named
    if options.named not in {None, options.stage}:
        parser.error(f"two stages are named, {options.stage} and {options.named}: give one")
    options.named = None
    options.device = torch.device(options.device)
    if options.workers is None:
        options.workers = 0 if options.device.type == "cpu" else min(12, os.cpu_count() or 1)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stage that the command line names."""
    options = parsed(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for stop in (signal.SIGINT, signal.SIGTERM):  # both save the checkpoint, in the background too
        signal.signal(stop, signal.default_int_handler)
    torch.set_flush_denormal(True)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    minutes = options.minutes
    for name in STAGES if options.stage == "all" else (options.stage,):
        stage, default = (STAGES | ON_REQUEST)[name]
        options.minutes = default if minutes is None else minutes
        stage(options)


if __name__ == "__main__":
    main()

"""One edit of the bundled scene, kept by the first run and compared by those that follow.

    python -m tests.kit.processors edit.npy                              # as this processor
    ATEN_CPU_CAPABILITY=default python -m tests.kit.processors edit.npy  # as another

Exit code 1 where a pixel differs by more than rounding: see ``.ci/emulated``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from engine import InpaintEngine
from engine.pocket.world import sample_edits

ROUNDING = 2
"""Grey levels. Last bits that differ grow over the steps, to 1e-4 of a picture in [0, 1] at most,
and a value between two levels is rounded to either; the colour's repair does so a second time."""


def edited() -> np.ndarray:
    """uint8 ``(H, W, 3)``: a few guided steps through encoder, loop, decoder, colour and paste."""
    scene = sample_edits()[0]
    result = InpaintEngine.from_pretrained(device="cpu").edit(
        image=scene.image,
        mask=scene.mask,
        prompt=scene.prompt,
        num_inference_steps=4,
        seed=3,
        progress=False,
    )
    return np.asarray(result.images[0])


def main() -> None:
    """Keep the picture under the path that is given, or compare with the one that is there."""
    path, picture = Path(sys.argv[1]), edited()
    if not path.exists():
        np.save(path, picture)
        return
    difference = np.abs(picture.astype(int) - np.load(path))
    line = f"{np.count_nonzero(difference)} values differ, by at most {difference.max()}"
    if difference.max() > ROUNDING:
        sys.exit(line)
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()

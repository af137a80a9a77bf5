"""A strength for every pixel: the sky turns wholly, the land a little, the house not at all."""

import numpy as np
from PIL import Image

from engine import InpaintEngine
from engine.picture.sheet import labelled_grid, overlay_map
from engine.pocket.world import sample_edits

engine = InpaintEngine.from_pretrained()
scene = sample_edits()[-1]
height, width = scene.image.shape[:2]

strength = np.full((height, width), 0.4, np.float32)  # 0 = keep, 1 = repaint
strength[: height // 2] = np.linspace(1.0, 0.4, height // 2, dtype=np.float32)[:, None]

result = engine.edit(
    image=scene.image,
    strength_map=strength,
    prompt="a landscape at sunset",
    strategy="differential",
    options={"strength_mode": "relative"},  # this strategy's: see `softpaint strategies`
    num_inference_steps=25,
    seed=3,
)
before = Image.fromarray(scene.image)
sheet = labelled_grid(
    [[(overlay_map(before, strength), "strengths"), (result.images[0], "a landscape at sunset")]]
)
sheet.save("strength-map.png")
print("strength-map.png")

"""A brush moves over a strength map; each render goes on from the first step that it changes.

Pixels of low strength are released late in a run, so what a soft brush changes is decided late
too. Every picture is a full run's, bit for bit.
"""

import numpy as np

from engine import InpaintEngine
from engine.picture.sheet import labelled_grid, overlay_map
from engine.pocket.world import sample_edits

engine = InpaintEngine.from_pretrained()
scene = sample_edits()[0]
session = engine.session(image=scene.image, prompt=scene.prompt, num_inference_steps=12, seed=7)

strength_map = scene.mask.astype(np.float32)  # repaint the masked region wholly
result = session.render(strength_map=strength_map)
print(f"the first render: {result.model_calls} model calls")

row = [(overlay_map(scene.image, strength_map), "start"), (result.images[0], "0% saved")]
for place in range(24, 104, 20):
    strength_map = strength_map.copy()
    spot = strength_map[place : place + 24, place : place + 24]
    np.maximum(spot, 0.4, out=spot)  # a soft brush stroke
    result = session.render(strength_map=strength_map)
    saved = result.reused_calls / (result.reused_calls + result.model_calls)
    print(f"brush at {place}: {result.model_calls} model calls, {saved:.0%} saved")
row += [
    (overlay_map(scene.image, strength_map), "brushed"),
    (result.images[0], f"{saved:.0%} saved"),
]

labelled_grid([row]).save("retuned.png")
print(f"retuned.png; {session.bytes_per_step / 1024:.0f} kB kept for each step")

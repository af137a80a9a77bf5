"""Edit a photograph of odd size; what is outside the mask comes back bit for bit.

    python examples/edit_photo.py [MODEL]

MODEL is a folder, hub id or .safetensors file; without it the embedded pocket model paints.
"""

import sys

import numpy as np
from PIL import Image
from skimage.data import chelsea

from engine import InpaintEngine

engine = InpaintEngine.from_pretrained(sys.argv[1] if len(sys.argv) > 1 else "pocket")

photo = Image.fromarray(chelsea())  # 451 x 300
mask = Image.new("L", photo.size)
mask.paste(255, (20, 120, 120, 220))  # white is repainted

result = engine.edit(
    image=photo, mask=mask, prompt="a red house in the snow", num_inference_steps=15, seed=1
)
result.images[0].save("edited.png")

outside = np.asarray(mask) == 0
same = np.array_equal(np.asarray(result.images[0])[outside], np.asarray(photo)[outside])
print(f"edited.png: {result.images[0].size}, seed {result.seeds[0]}, outside unchanged: {same}")

"""The pocket model is an ordinary SDXL folder: diffusers' own pipeline loads and runs it."""

import torch
from diffusers import StableDiffusionXLInpaintPipeline
from PIL import Image

from engine.pocket import model_path
from engine.pocket.world import sample_edits

scene = sample_edits()[0]
pipe = StableDiffusionXLInpaintPipeline.from_pretrained(model_path())

image = pipe(
    prompt=scene.prompt,
    image=Image.fromarray(scene.image),
    mask_image=Image.fromarray(scene.mask),
    width=scene.image.shape[1],
    height=scene.image.shape[0],
    strength=1.0,
    guidance_scale=4.5,
    num_inference_steps=20,
    generator=torch.Generator().manual_seed(7),
).images[0]
image.save("plain-diffusers.png")
print("plain-diffusers.png")

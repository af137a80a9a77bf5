"""Give the engine a pipeline that you have already: modules are shared, nothing is changed."""

from diffusers import StableDiffusionXLPipeline

from engine import InpaintEngine
from engine.pocket import model_path
from engine.pocket.world import sample_edits

pipe = StableDiffusionXLPipeline.from_pretrained(model_path())  # with your LoRAs, your offloading
scene = sample_edits()[1]

engine = InpaintEngine.from_pipe(pipe)
result = engine.edit(
    image=scene.image,
    mask=scene.mask,
    prompt=scene.prompt,
    scheduler="dpmpp-2m-karras",
    num_inference_steps=12,
    seed=5,
    callback=lambda snapshot: print(f"step {snapshot.index + 1} of {snapshot.total}"),
)
result.images[0].save("shared.png")
print("shared.png", {phase: round(seconds, 2) for phase, seconds in result.timings.items()})

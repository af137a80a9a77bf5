"""The same picture, prompt and seed through several strategies, in shared model calls."""

from engine import InpaintEngine
from engine.pocket.world import sample_edits

engine = InpaintEngine.from_pretrained()
scene = sample_edits()[0]

comparison = engine.compare(
    image=scene.image,
    mask=scene.mask,
    prompt=scene.prompt,
    strategies=["blend", "differential"],
    num_inference_steps=20,
    seed=7,
)
comparison.grid().save("comparison.png")
print(comparison.table())
for name, result in comparison.results.items():
    result.images[0].save(f"comparison-{name}.png")

"""A strategy of your own: one class with the hooks that it needs, one registration."""

from dataclasses import dataclass, field

from engine import InpaintEngine
from engine.denoise.strategy import Part
from engine.pocket.world import sample_edits
from strategies import StrategyInfo, register


@dataclass(frozen=True)
class Anchor(Part):
    """Pulls the predicted picture towards the original where the map is weak."""

    exclusive = "what holds the known region"

    pull: float = field(default=1.0, metadata={"help": "from 0 (not at all) to 1 (wholly)"})

    def prepare(self, context):
        return context.init_latents, self.pull * (1 - context.strength_map)

    def denoised(self, state, denoised, latents, step):
        original, weight = state
        return denoised + weight * (original - denoised)


register(
    StrategyInfo(
        name="anchor",
        description="pulls the prediction towards the original where the map is weak",
        cost="1 model call a step",
        build=Anchor,
    )
)

scene = sample_edits()[0]
result = InpaintEngine.from_pretrained().edit(
    image=scene.image, mask=scene.mask, prompt=scene.prompt, strategy=Anchor(pull=0.9), seed=7
)
result.images[0].save("anchor.png")

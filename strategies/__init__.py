"""Strategies: how an edit treats what is to be kept and what is to be repainted.

``list_strategies()`` names them, ``get_strategy(name)`` tells about one, ``create_strategy(name,
**options)`` builds one; names compose with ``+``. To add one, subclass
:class:`engine.denoise.strategy.Part` and register a :class:`StrategyInfo` (see CONTRIBUTING.md).
"""

from strategies.blend import LatentBlend
from strategies.differential import DifferentialDiffusion, FewStepsWarning
from strategies.erase import Erase
from strategies.fill import FillTransformer
from strategies.inpaint9 import InpaintUNet
from strategies.registry import (
    StrategyInfo,
    create_strategy,
    get_strategy,
    list_strategies,
    options_of,
    register,
)
from strategies.remove import remove
from strategies.soft_blend import SoftBlend
from strategies.staged import staged
from strategies.think import Think
from strategies.whole import Whole

__all__ = [
    "DifferentialDiffusion",
    "Erase",
    "FewStepsWarning",
    "FillTransformer",
    "InpaintUNet",
    "LatentBlend",
    "SoftBlend",
    "StrategyInfo",
    "Think",
    "Whole",
    "create_strategy",
    "get_strategy",
    "list_strategies",
    "options_of",
    "register",
    "remove",
    "staged",
]

register(
    StrategyInfo(
        name="blend",
        description="keeps the known region on the original at every step; natural colours, "
        "the inside is sometimes unaware of its surroundings",
        cost="1 model call a step",
        paper="Avrahami et al. 2022, Blended Latent Diffusion",
        build=LatentBlend,
    )
)
register(
    StrategyInfo(
        name="differential",
        description="a strength for every pixel: each is released at its own step; "
        "soft transitions, gentle retouching",
        cost="1 model call a step",
        paper="Levin & Fried 2023, Differential Diffusion",
        build=DifferentialDiffusion,
    )
)
register(
    StrategyInfo(
        name="soft-blend",
        description="mixes the original into the prediction, more of it as noise falls; "
        "seamless partial strengths under every sampler, colours stay vivid",
        cost="1 model call a step",
        paper="A1111 and Forge, soft inpainting",
        build=SoftBlend,
    )
)
register(
    StrategyInfo(
        name="think",
        description="samples what is repainted given what is held, by Langevin steps; for things "
        "that must fit their surroundings, alone or as think+differential, think+blend",
        cost="7 times the model calls, most of them unguided: 4 times the time",
        paper="Zheng et al. 2025, LanPaint",
        build=Think,
    )
)
register(
    StrategyInfo(
        name="inpaint9",
        description="the 9-channel inpainting UNet, which sees mask and surroundings; "
        "coherent shapes, colours may fade or shift",
        cost="1 model call a step, and one more image encoded",
        paper="Rombach et al. 2022, the Stable Diffusion inpainting checkpoints",
        build=InpaintUNet,
        network="inpaint",
    )
)
register(
    StrategyInfo(
        name="fill",
        description="Flux Fill, which sees mask and surroundings; alone it repaints all of the "
        "mask, as fill+differential each position by its strength",
        cost="1 model call a step, and one more image encoded",
        paper="Black Forest Labs 2024, FLUX.1 Tools",
        build=FillTransformer,
        network="fill",
    )
)
register(
    StrategyInfo(
        name="staged",
        description="a hard run that dares to add, then a soft one that knits it in; "
        "new things in empty space",
        cost="1 model call a step of each stage: 1.5 times an edit's by default",
        paper="after diffusers issue 7038",
        build=staged,
    )
)
register(
    StrategyInfo(
        name="remove",
        description="fills the hole with background, then redraws it in part; "
        "takes things away and puts nothing in their place",
        cost="a fifth of an edit's model calls, and a fill",
        paper="as krita-ai-diffusion and Fooocus take things away",
        build=remove,
        network="inpaint",
        only="removal",
    )
)
register(
    StrategyInfo(
        name="erase",
        description="keeps a UNet's self-attention from what is to go, so that what is around it "
        "is drawn on; takes things away without a 9-channel network",
        cost="1 model call a step",
        paper="Sun et al. 2025, Attentive Eraser",
        build=Erase,
        only="removal",
    )
)
register(
    StrategyInfo(
        name="whole",
        description="holds nothing and takes what the map asks for of a frame that is all "
        "repainted; for models that edit by instruction",
        cost="1 model call a step",
        build=Whole,
        only="instruction",
    )
)

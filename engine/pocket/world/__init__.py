"""The pocket world: a seeded painter of small landscapes that knows everything about its pictures.

Every scene is a frozen :class:`SceneSpec` (what is there) that :func:`render` turns into a
:class:`Scene`
(how it looks): image, caption, per-object footprints, depth and edges. Because a scene is painted
back to front
and every object depends on its own fields alone, removing, adding or recolouring an object leaves
every pixel
outside that object's footprint bit for bit as it was. That makes ground truth for removal,
insertion and recolouring.

>>> spec = sample_scene(7)
>>> scene = render(spec, size=128)
>>> scene.image.shape, scene.image.dtype
((128, 128, 3), dtype('uint8'))

Seeds: training uses ``TRAIN_SEEDS``, everything that is reported uses ``HELD_OUT_SEEDS``.
"""

from engine.pocket.world.captions import attributes_from_caption, training_caption, vocabulary
from engine.pocket.world.edits import DemoEdit, box_around, demo_scenes, feathered, sample_edits
from engine.pocket.world.render import footprint, grow, render
from engine.pocket.world.scene import Scene, SceneObject, SceneSpec, fitting_object, sample_scene
from engine.pocket.world.values import (
    COLOURS,
    GROUNDS,
    HELD_OUT_SEEDS,
    KIND_COLOURS,
    KINDS,
    TIMES,
    TRAIN_SEEDS,
    WEATHERS,
    Attributes,
)

__all__ = [
    "COLOURS",
    "GROUNDS",
    "HELD_OUT_SEEDS",
    "KINDS",
    "KIND_COLOURS",
    "TIMES",
    "TRAIN_SEEDS",
    "WEATHERS",
    "Attributes",
    "DemoEdit",
    "Scene",
    "SceneObject",
    "SceneSpec",
    "attributes_from_caption",
    "box_around",
    "demo_scenes",
    "feathered",
    "fitting_object",
    "footprint",
    "grow",
    "render",
    "sample_edits",
    "sample_scene",
    "training_caption",
    "vocabulary",
]

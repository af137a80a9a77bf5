"""What ``softpaint demo`` and ``softpaint models`` do: the bundled scenes, the embedded model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from controls import Control
    from engine.engine import InpaintEngine
    from engine.pocket.world import DemoEdit

SHEET = "softpaint-demo.png"
CONTROL = "canny"
STEERED = ("differential",)
"""Strategies that the demo shows with the control, too."""
_NEW_CANVAS = 128  # mid grey: no colour that would look like the picture's


@dataclass(frozen=True)
class Take:
    """One scene through one strategy."""

    image: Image.Image
    seconds: float
    model_calls: int
    untouched: int
    """Largest difference, 0 to 255, among pixels whose strength is 0: it should be 0."""
    prompt_score: float
    """0 to 1: how much of the prompts the pocket classifier finds; NaN where it knows no word."""
    distance: float
    """Mean Delta-E of the painted pixels from the renderer's own picture."""


@dataclass(frozen=True)
class DemoRow:
    """What one strategy did over all scenes: sums, the worst untouched pixel, means."""

    strategy: str
    seconds: float
    model_calls: int
    untouched: int
    prompt_score: float
    distance: float

    @classmethod
    def of(cls, strategy: str, takes: Sequence[Take]) -> DemoRow:
        """Sum up the takes of ``strategy``."""
        return cls(
            strategy=strategy,
            seconds=sum(take.seconds for take in takes),
            model_calls=sum(take.model_calls for take in takes),
            untouched=max(take.untouched for take in takes),
            prompt_score=fmean(take.prompt_score for take in takes),
            distance=fmean(take.distance for take in takes),
        )


def run_demo(
    engine: InpaintEngine,
    sheet: Path,
    *,
    size: int,
    steps: int,
    seed: int,
    progress: bool,
    say: Callable[[str], None],
) -> list[DemoRow]:
    """Run the scenes through every strategy the model can run; write the sheet, print the table."""
    from engine.picture.sheet import labelled_grid
    from engine.picture.write import save_image
    from engine.pocket.world import demo_scenes

    scenes = demo_scenes(size)
    controls = _controls(engine, scenes)
    names = [*engine.strategies()]
    for name in STEERED if any(controls) else ():
        names.insert(names.index(name) + 1, f"{name}+{CONTROL}")
    say(f"{len(scenes)} scenes of {size} x {size} px, {steps} steps, seed {seed}")
    takes: dict[str, list[Take]] = {}
    with _Progress(len(scenes) * len(names), shown=progress) as advance:
        for name in names:
            takes[name] = []
            for scene, control in zip(scenes, controls, strict=True):
                takes[name].append(_take(engine, name, scene, control, steps, seed))
                advance()
    picture = labelled_grid(
        [_sheet_row(scene, [takes[name][i] for name in names]) for i, scene in enumerate(scenes)],
        title=f"softpaint demo: model {engine.name}, {steps} steps, seed {seed}",
        columns=["where, how strongly", *names, "as the renderer draws it"],
        row_labels=[f"{scene.name}\n{_prompts(scene)}" for scene in scenes],
    )
    save_image(picture, sheet)
    rows = [DemoRow.of(name, takes[name]) for name in names]
    _tell(engine, sheet, rows, say, steered=any(controls))
    return rows


def _take(
    engine: InpaintEngine,
    name: str,
    scene: DemoEdit,
    control: Control | None,
    steps: int,
    seed: int,
) -> Take:
    """One scene through the strategy, or strategy with the control, that ``name`` says."""
    import numpy as np

    from engine.picture.metrics import colour_inside, untouched
    from engine.pocket.classifier import prompt_score

    plain = name.removesuffix(f"+{CONTROL}")
    result = engine.edit(
        image=scene.image,
        **_region(scene),
        prompt=scene.prompt,
        strategy=plain,
        controls=None if name == plain else control,
        guidance_end=scene.guidance_end,
        num_inference_steps=steps,
        seed=seed,
        progress=False,
    )
    picture, strength = np.asarray(result.images[0]), _strength(scene)
    prompts = [prompt for _, prompt in scene.regions] or [scene.prompt]
    return Take(
        image=result.images[0],
        seconds=result.timings["total"],
        model_calls=result.model_calls,
        untouched=int(untouched(picture, _canvas(scene), strength)),
        prompt_score=fmean(prompt_score(result.images, prompt)[0] for prompt in prompts),
        distance=float(colour_inside(picture, scene.truth, strength > 0)),
    )


def _tell(
    engine: InpaintEngine,
    sheet: Path,
    rows: list[DemoRow],
    say: Callable[[str], None],
    *,
    steered: bool,
) -> None:
    """Print the table, and where the sheet is."""
    say("")
    say(table(rows))
    if steered:
        say(f"+{CONTROL}: a ControlNet reads the edges of the picture in the last column")
    say("")
    say(f"The sheet: {sheet.resolve()}")
    if engine.name == "pocket":
        say(
            "The pocket model that drew it knows one small painted world and is there to show and"
            " test the engine.\nReal work takes a real checkpoint, through the same commands:\n"
            "  softpaint demo --model stabilityai/stable-diffusion-xl-base-1.0 --size 1024\n"
            "  softpaint edit photo.png --mask mask.png --prompt ... -o out.png --model FOLDER"
        )


def _controls(engine: InpaintEngine, scenes: Sequence[DemoEdit]) -> list[Control | None]:
    """Each scene's control: the edges of its answer, as someone who wants just that would draw
    them. None where the model has no ControlNet of its own.
    """
    from controls import Control, annotate

    checkpoint = engine.backbone.checkpoint
    if checkpoint is None or CONTROL not in (checkpoint.controlnets or ()):
        return [None] * len(scenes)
    return [Control(CONTROL, annotate(scene.truth, CONTROL)) for scene in scenes]


def table(rows: Sequence[DemoRow]) -> str:
    """The rows as aligned text."""
    from engine.picture.sheet import text_table

    head = (
        "strategy",
        "seconds",
        "model calls",
        "untouched-pixel error",
        "prompt score",
        "Delta-E",
    )
    cells = [
        (
            row.strategy,
            f"{row.seconds:.1f}",
            str(row.model_calls),
            str(row.untouched),
            f"{row.prompt_score:.2f}",
            f"{row.distance:.1f}",
        )
        for row in rows
    ]
    return text_table([head, *cells], rule=True)


def _region(scene: DemoEdit) -> dict[str, Any]:
    if scene.expand is not None:
        return {"expand": scene.expand}
    if scene.regions:
        from engine.request.regions import Region

        return {"regions": [Region(mask, prompt=prompt) for mask, prompt in scene.regions]}
    if scene.strength_map is not None:
        return {"strength_map": scene.strength_map}
    return {"mask": scene.mask}


def _strength(scene: DemoEdit) -> NDArray[np.float32]:
    import numpy as np

    region = scene.mask if scene.strength_map is None else scene.strength_map
    return np.asarray(region, np.float32)


def _canvas(scene: DemoEdit) -> NDArray[np.uint8]:
    """The picture, with grey where there is none yet."""
    import numpy as np

    if scene.expand is None:
        return scene.image
    left, top, right, bottom = scene.expand
    around = ((top, bottom), (left, right), (0, 0))
    return np.pad(scene.image, around, constant_values=_NEW_CANVAS)


def _prompts(scene: DemoEdit) -> str:
    return "\n".join(prompt for _, prompt in scene.regions) or scene.prompt


def _sheet_row(scene: DemoEdit, takes: Sequence[Take]) -> list[tuple[Image.Image | None, str]]:
    from PIL import Image

    from engine.picture.sheet import overlay_map

    row: list[tuple[Image.Image | None, str]] = [
        (overlay_map(_canvas(scene), _strength(scene)), "")
    ]
    for take in takes:
        figures = f"{take.prompt_score:.0%} found, Delta-E {take.distance:.1f}"
        row.append((take.image, figures))
    return [*row, (Image.fromarray(scene.truth), "")]


class _Progress:
    """A progress bar on standard error, or nothing."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self.total = total
        self.shown = shown

    def __enter__(self) -> Callable[[], None]:
        if not self.shown:
            return lambda: None
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True), transient=True)
        task = self.bar.add_task("editing", total=self.total)
        self.bar.start()
        return lambda: self.bar.advance(task)

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self.bar.stop()


def describe_models() -> str:
    """The embedded model's parts and sizes, and how other models are given."""
    from engine.models.family import FAMILIES
    from engine.pocket import controlnet_paths, flow_folder, inpaint_unet_path, model_path

    try:
        folder = model_path()
    except FileNotFoundError as error:
        raise ModelError(str(error)) from error
    parts = [part for part in sorted(folder.iterdir()) if part.is_dir()]
    inpaint = inpaint_unet_path()
    if inpaint is not None:
        parts.append(inpaint)
    parts += controlnet_paths().values()
    flow = [part for part in sorted(flow_folder().glob("*")) if part.is_dir()]
    lines = [
        "pocket (embedded; used where no --model is given)",
        *_sizes(parts),
        f"  folder: {folder}",
        "pocket-flow (embedded too: a flow model in SD3's layout, with pocket's VAE)",
        *_sizes(flow),
        "  A small painted world, 128 x 128 px: for tests, demos and first steps, not for photos.",
        "",
        f"Others, with --model ({', '.join(each.description for each in FAMILIES)}):",
        "  a folder             --model ./sdxl-base   (what diffusers' save_pretrained writes)",
        "  a hub id             --model stabilityai/stable-diffusion-xl-base-1.0",
        "  a checkpoint file    --model sd_xl_base_1.0.safetensors",
        "A 9-channel inpainting network for the strategies that want one:",
        "  --inpaint-model diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        "ControlNets, with --control (`softpaint annotate --list` tells what they read):",
        f"  by name              {', '.join(_controls_with_models())}",
        "  your own             --control ./my-controlnet=canny:0.8   (a folder, hub id or file)",
    ]
    return "\n".join(lines)


def _sizes(parts: Sequence[Path]) -> list[str]:
    """A line for each part of a model, and one for all of them."""
    sizes = [sum(file.stat().st_size for file in p.rglob("*") if file.is_file()) for p in parts]
    lines = [
        f"  {part.name:<18} {_class_of(part):<32} {size / 1e6:6.1f} MB"
        for part, size in zip(parts, sizes, strict=True)
    ]
    return [*lines, f"  {'total':<51} {sum(sizes) / 1e6:6.1f} MB"]


def _controls_with_models() -> list[str]:
    """The controls by name, with the families that they have networks for."""
    from controls import get_control, list_controls
    from engine.models.checkpoints import CHECKPOINTS

    own = {info.name: info.controlnets or {} for info in CHECKPOINTS}
    named = {
        name: [*(model for model in own if name in own[model]), *get_control(name).models]
        for name in list_controls()
    }
    return [f"{name} ({', '.join(models)})" for name, models in named.items()]


def _class_of(part: Path) -> str:
    """What is in a model folder's part, by its config; empty where it does not say."""
    for name in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
        if (part / name).is_file():
            config = json.loads((part / name).read_text(encoding="utf-8"))
            architectures = config.get("architectures") or [config.get("tokenizer_class")]
            return str(config.get("_class_name") or architectures[0] or "")
    return ""

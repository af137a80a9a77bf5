"""Every setting of an edit, said once.

A line here is all that a new setting needs beside the code that uses it: the request and its
checks, signature and documentation of ``InpaintEngine.edit``, the options of ``softpaint edit`` and
``compare``, the record in a result's file and the JSON schema are read from this table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from engine.errors import InputError
from engine.request.field import Group, Help, Json, Names, Option, Range, Recorded

Text: TypeAlias = str | Sequence[str]
_IMAGE = Json({"type": "string", "contentEncoding": "base64", "contentMediaType": "image/*"})
_REFERENCE: dict[str, Any] = {
    "type": "object",
    "required": ["image"],
    "additionalProperties": False,
    "properties": {
        "image": _IMAGE.schema,
        "scale": {"type": "number", "default": 1},
        "mask": _IMAGE.schema,
        "adapter": {"type": "string"},
    },
}
_REFERENCES = Json({"type": "array", "items": _REFERENCE})
_REGIONS = Json(
    {
        "type": "array",
        "maxItems": 32,
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["map"],
            "properties": {
                "map": _IMAGE.schema,
                "prompt": {"type": "string"},
                "negative_prompt": {"type": "string"},
                "strategy": {"type": "string"},
                "options": {"type": "object"},
                "strength": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                "seed": {"type": "integer"},
                "controls": {"type": "array", "items": {"type": "string"}},
                "reference": _REFERENCE,
                "lora": {
                    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
                },
                "task": {"type": "string"},
            },
        },
    }
)
_TEXTS = Json({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})


def _schedulers() -> Iterable[str]:
    from engine.solvers.names import list_schedulers

    return list_schedulers()


def _check_scheduler(scheduler: Any) -> None:
    from engine.solvers.names import check_scheduler

    check_scheduler(scheduler)


def _prefills() -> Iterable[str]:
    from engine.picture.fill import list_prefills

    return ["auto", *list_prefills()]


def _check_prefill(name: Any) -> None:
    from engine.picture.fill import find_prefill

    if not isinstance(name, str):
        raise InputError(f"prefill must be a name, not {type(name).__name__}.")
    if name != "auto":
        find_prefill(name)


def _colours() -> Iterable[str]:
    from engine.picture.colour import list_colours

    return list_colours()


def _pastes() -> Iterable[str]:
    from engine.picture.paste import list_pastes

    return list_pastes()


def _judges() -> Iterable[str]:
    from engine.picture.judging import list_judges

    return list_judges()


def _check_judge(judge: Any) -> None:
    from engine.picture.judging import check_judge

    check_judge(judge)


SEEDS = 2**64
"""How many seeds there are: torch's and other programs' are from 0 to this less 1."""


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The table. Marks are explained in :mod:`engine.request.field`."""

    image: Annotated[
        Any,
        Group.PICTURE,
        Help(
            "The picture to edit.",
            "Path, Pillow image, array, tensor (c h w or b c h w in [0, 1]), latents (b c h/cell "
            "w/cell), or a list of pictures of one size. Any size: it is padded to the model's "
            "multiple and cropped back.",
        ),
        _IMAGE,
    ]
    prompt: Annotated[
        Text,
        Group.PICTURE,
        Help(
            "What is to be seen.",
            "Of the whole picture when it is done. Several are several edits of the picture, or "
            "of as many pictures, each with its own.",
        ),
        Option("--prompt", "-p", metavar="TEXT"),
        Recorded(),
        _TEXTS,
    ]
    mask: Annotated[
        Any,
        Group.PICTURE,
        Help(
            "White is repainted, black is kept; the word alpha: where the picture is transparent.",
            "Path, Pillow image, array or tensor.",
        ),
        Option("--mask", "-m", metavar="FILE", file=True),
        _IMAGE,
    ] = None
    strength_map: Annotated[
        Any,
        Group.PICTURE,
        Help(
            "Instead of a mask: how strongly each pixel is repainted, white = wholly.",
            "As the mask, in [0, 1].",
        ),
        Option("--strength-map", "-s", metavar="FILE", file=True),
        _IMAGE,
    ] = None
    regions: Annotated[
        Any,
        Group.PICTURE,
        Help(
            "Several edits of one picture, each with a map, prompt and settings of its own.",
            "A :class:`~engine.Region`, a mapping of its settings, or a list of such; what one "
            "leaves open is the edit's. Those that touch or overlap are made in one run, in which "
            "each prompt acts where its map is; those apart have runs of their own, in shared "
            "model calls. With a mask or map beside them the edit's own prompt is for the rest of "
            "that.",
        ),
        _REGIONS,
    ] = None
    coupling: Annotated[
        Literal["auto", "attention", "latents"],
        Group.PICTURE,
        Help(
            "How the prompts of regions share a run: attention, latents, or auto: "
            "as the model allows.",
            "``attention`` mixes what the cross-attentions say of each prompt, ``latents`` the "
            "predictions, for one model call more for each prompt. Named, regions apart share a "
            "run too where that is less work; a model may then leave out what it draws alone.",
        ),
        Option(metavar="HOW"),
        Recorded(),
    ] = "auto"
    negative_prompt: Annotated[
        Text | None,
        Group.PICTURE,
        Help("What is not to be seen.", "None is the model's own empty prompt."),
        Option("--negative-prompt", metavar="TEXT"),
        Recorded(),
        _TEXTS,
    ] = None
    instruct: Annotated[
        bool,
        Group.PICTURE,
        Help(
            "The prompt is an instruction (make the door red), for models that are shown the "
            "picture.",
            "Flux.2 and others that edit: the picture goes into the network beside the one that is "
            "made, and the map says where that may change. With a strategy that holds nothing "
            "(``whole``) the network is trusted, and where it shifts colours the colour field "
            "takes that away.",
        ),
        Option("--instruct/--no-instruct"),
        Recorded(),
    ] = False
    prompt_syntax: Annotated[
        Literal["weights", "plain"] | None,
        Group.PICTURE,
        Help(
            "weights: (word:1.3), (word), [word] and BREAK are read, and long prompts whole; plain:"
            " words only, as many as the model reads.",
            "As stable-diffusion-webui and ComfyUI write them, see :mod:`engine.models.syntax`. "
            'None is ``"weights"``; ``"plain"`` with ``compat``.',
        ),
        Option(metavar="NAME", default="weights"),
        Recorded(),
    ] = None
    clip_skip: Annotated[
        int | None,
        Group.PICTURE,
        Help(
            "Layers of the text encoder left out at its end (the Clip skip of other programs, less "
            "1).",
            "As in diffusers; of the negative prompt too, but with ``compat``.",
        ),
        Range(0, 24),
        Option("--clip-skip"),
        Recorded(),
    ] = None
    invert: Annotated[
        bool,
        Group.PICTURE,
        Help("Repaint black instead of white."),
        Option("--invert/--no-invert"),
        Recorded(),
    ] = False
    grow_mask: Annotated[
        float,
        Group.PICTURE,
        Help("Spread the mask or map by so many pixels, as it is read."),
        Range(0, 512),
        Option("--grow"),
        Recorded(),
    ] = 0.0
    take: Annotated[
        Literal["map", "shadow"],
        Group.PICTURE,
        Help(
            "What is repainted: what the map covers, or its shadow on the ground too, if found.",
            "The shadow is looked for on the picture, at the foot of each island of the map: "
            "``softpaint map mask.png --photo photo.png --shadow --overlay`` shows what would be "
            "taken. For what is to be removed.",
        ),
        Option("--take", metavar="WHAT"),
        Recorded(),
    ] = "map"
    strategy: Annotated[
        Any,
        Group.STRATEGY,
        Help(
            "See `softpaint strategies`; auto takes what is best at the task (`softpaint advise`).",
            "A name of ``list_strategies()``, several joined by ``+``, a :class:`~engine.Part` or "
            "its class, a list of parts, or a :class:`~engine.Strategy`.",
        ),
        Option("--strategy", metavar="NAME", only=("edit", "batch")),
        Recorded(resolved=True),
        Json({"type": "string"}),
    ] = "differential"
    options: Annotated[
        Mapping[str, Any],
        Group.STRATEGY,
        Help("The strategy's options by name.", "They can also be given one by one."),
        Recorded(resolved=True),
        Json({"type": "object"}),
    ] = dataclasses.field(default_factory=dict)
    num_inference_steps: Annotated[
        int,
        Group.RUN,
        Help("Denoising steps.", "Those of a run at strength 1."),
        Range(1, 1000),
        Option("--steps"),
        Recorded(),
    ] = 30
    guidance_scale: Annotated[
        float,
        Group.RUN,
        Help("How strictly the prompt is followed.", "Classifier-free guidance; at most 1 is off."),
        Range(0),
        Option("--guidance"),
        Recorded(),
    ] = 5.0
    guidance_rescale: Annotated[
        float,
        Group.RUN,
        Help("0 to 1, against overexposure.", "See :class:`engine.denoise.guidance.Guidance`."),
        Range(0, 1),
        Option("--guidance-rescale"),
        Recorded(),
    ] = 0.0
    guidance_start: Annotated[
        float,
        Group.RUN,
        Help("Share of the run, 0 to 1, from which it is guided."),
        Range(0, 1),
        Option(),
        Recorded(),
    ] = 0.0
    guidance_end: Annotated[
        float,
        Group.RUN,
        Help("And until which; steps outside cost half.", "They have no unconditional branch."),
        Range(0, 1),
        Option(),
        Recorded(),
    ] = 1.0
    strength: Annotated[
        float,
        Group.RUN,
        Help("Above 0, to 1: strength of the whole edit.", "The share of the steps that is run."),
        Range(0, 1, above=True),
        Option(),
        Recorded(),
    ] = 1.0
    exact_steps: Annotated[
        bool,
        Group.RUN,
        Help(
            "Run all of the steps below strength 1 too, over what it leaves of the noise levels.",
            "For checkpoints of few steps, of which a strength would leave one or two.",
        ),
        Option("--exact-steps"),
        Recorded(),
    ] = False
    seed: Annotated[
        int | None,
        Group.RUN,
        Help(
            "Drawn, and recorded, where it is not given or -1.",
            "Picture i uses seed + i, so that each equals its single run.",
        ),
        Range(-1, SEEDS - 1),
        Option(),
        Recorded(resolved=True),
    ] = None
    num_images: Annotated[
        int,
        Group.RUN,
        Help("How many results.", "Of each picture that is given."),
        Range(1, 1024),
        Option("--num-images"),
        Recorded(),
    ] = 1
    task: Annotated[
        Literal["auto", "remove", "add", "replace", "recolour", "restyle", "extend"],
        Group.STRATEGY,
        Help(
            "What the edit is for: remove, add, replace, recolour, restyle, extend, or auto: "
            "guessed for the strategy auto.",
            "Named, it decides what a 4-channel network starts from: what is added, replaced or "
            'restyled from the original (``prefill="auto"``), what is recoloured too, at .6 of a '
            "run where ``strength`` is 1, so that it keeps its shape.",
        ),
        Option(metavar="TASK"),
        Recorded(),
    ] = "auto"
    prefer: Annotated[
        Literal["balance", "quality", "speed"],
        Group.STRATEGY,
        Help("What the strategy auto spends steps on: quality, speed or balance."),
        Option(metavar="WHAT", only=("edit", "advise")),
    ] = "balance"
    candidates: Annotated[
        int | None,
        Group.CHOICE,
        Help(
            "So many starts share model calls; at each fifth of it only the best third goes on.",
            "Start i has seed + i; where ``strategy`` names several with commas between, each seed "
            "is tried with each. None is 1, or one for each strategy. Of regions each run apart "
            "has its own best. All scores are in the result's ``candidates``.",
        ),
        Range(1, 256),
        Option(only=("edit", "advise")),
    ] = None
    keep: Annotated[
        int | None,
        Group.CHOICE,
        Help("How many of them are finished, the best first.", "None is 1."),
        Range(1, 256),
        Option(only=("edit", "advise")),
    ] = None
    judge: Annotated[
        Any,
        Group.CHOICE,
        Help(
            "Who tells what a picture shows: auto (the model's own), none, pocket or clip:MODEL.",
            "Or callable: ``judge(picture, prompt)``, of a uint8 array H W 3 and a text, from 0 to "
            "1. Seams, colours and the known region are measured in any case, see "
            ":func:`engine.picture.judging.score`.",
        ),
        Names("judge", _judges, _check_judge),
        Option(metavar="NAME", only=("edit",)),
    ] = "auto"
    enough: Annotated[
        float | None,
        Group.CHOICE,
        Help(
            "Starts that stopped go on while the judge says less than this of what is kept.",
            "From 0, where nobody goes on, to 1; None is what the judge says itself (pocket: .8; "
            "clip and a judge of yours: nobody goes on).",
        ),
        Range(0, 1),
        Option(only=("edit", "advise")),
    ] = None
    scheduler: Annotated[
        Any,
        Group.RUN,
        Help(
            "Such as euler, ddim, dpmpp-2m-karras.",
            "A name of ``list_schedulers()``, a diffusers scheduler (a fresh copy is used), or "
            "None for the model's own.",
        ),
        Names("scheduler", _schedulers, _check_scheduler),
        Option("--scheduler", metavar="NAME", default="the model's"),
        Recorded(resolved=True),
    ] = None
    eta: Annotated[
        float | None,
        Group.RUN,
        Help("Of DDIM and TCD, 0 to 1: how much noise a step adds.", "None is the scheduler's."),
        Range(0, 1),
        Option(default="the scheduler's"),
        Recorded(),
    ] = None
    skip: Annotated[
        bool,
        Group.RUN,
        Help(
            "Leave out the steps that cannot change a pixel.",
            "Those in which every pixel is still held (a strength map whose maximum is below 1): "
            "the same pixels for less work. The callback is not called for them.",
        ),
        Option("--skip/--no-skip", default="skip"),
        Recorded(),
    ] = True
    controls: Annotated[
        Any,
        Group.STEERING,
        Help(
            "What steers the edit beside its text.",
            "A :class:`~engine.Control`, a control's name, or a list of such; also as part of the "
            'strategy\'s name (``"differential+canny"``).',
        ),
        Json({"type": "array", "items": {"type": "string"}}),
    ] = None
    guess_mode: Annotated[
        bool,
        Group.STEERING,
        Help(
            "Controls lead, the prompt hardly matters.",
            "They act on the conditional prediction only, and work without a prompt "
            "(guidance_scale 3 to 5 is recommended).",
        ),
        Option("--guess-mode"),
        Recorded(),
    ] = False
    ip_adapter_image: Annotated[
        Any,
        Group.STEERING,
        Help(
            "What the loaded IP-Adapter reads.",
            "``engine.pipe.load_ip_adapter`` loads it. A picture, or a :class:`~engine.Reference` "
            "with its own scale and mask. Of several adapters a list, one entry for each; an entry "
            "may be a list of several.",
        ),
        _REFERENCES,
    ] = None
    expand: Annotated[
        tuple[int, int, int, int] | None,
        Group.REGION,
        Help(
            "Grow the canvas by so many pixels, and paint them.",
            "(left, top, right, bottom); the mask's area is repainted too if one is given.",
        ),
        Range(0, 16384),
        Option(metavar="L,T,R,B"),
        Recorded(),
    ] = None
    region: Annotated[
        Literal["auto", "full", "mask"],
        Group.REGION,
        Help(
            "auto, full, or mask: edit a cut-out around the mask at the model's own size.",
            "``auto`` cuts out where that saves at least half (see "
            ":class:`engine.picture.crop.Cutter`). Islands of the mask far from each other are cut "
            "out apart and share model calls; the first draws its noise from the picture's own "
            "generator, each further one from a generator seeded by it.",
        ),
        Option(metavar="WHERE"),
        Recorded(),
    ] = "auto"
    context: Annotated[
        float,
        Group.REGION,
        Help("Sides of the cut-out over the mask's, from 1.", "Over those of its bounding box."),
        Range(1, 100),
        Option(),
        Recorded(),
    ] = 2.0
    padding: Annotated[
        int | None,
        Group.REGION,
        Help(
            "In place of that: pixels around the whole mask that its one cut-out holds.",
            "As diffusers' ``padding_mask_crop``. A cut-out has at least the native size (over "
            "``zoom``).",
        ),
        Range(0, 16384),
        Option(),
        Recorded(),
    ] = None
    context_mask: Annotated[
        Any,
        Group.REGION,
        Help("More that the cut-out should hold.", "As the mask."),
        _IMAGE,
    ] = None
    native_size: Annotated[
        int | None,
        Group.REGION,
        Help("Side in pixels at which cut-outs are edited.", "None is what the model knows."),
        Range(8, 16384),
        Option("--native-size", default="the model's"),
        Recorded(),
    ] = None
    zoom: Annotated[
        float,
        Group.REGION,
        Help("How far small cut-outs may be enlarged, from 1.", "1 (not at all) to 16."),
        Range(1, 16),
        Option(),
        Recorded(),
    ] = 1.0
    prefill: Annotated[
        str,
        Group.FINISH,
        Help(
            "What the hole starts from: auto, original, blur, telea, ns, patch, neutral, noise, "
            "gan or gan:FILE.",
            "``gan:FILE`` is an inpainting GAN of your own (:func:`engine.picture.fill.gan`); the "
            "result's settings name what ``auto`` chose under ``prefilled``. What is held and "
            "pasted is the original in any case.",
        ),
        Names("prefill", _prefills, _check_prefill),
        Option(metavar="NAME"),
        Recorded(),
    ] = "auto"
    prefill_mask: Annotated[
        Any,
        Group.FINISH,
        Help("What is prefilled, and how strongly, if it is not the map.", "As the strength map."),
        _IMAGE,
    ] = None
    colour: Annotated[
        str,
        Group.FINISH,
        Help(
            "How the edit's colours are matched to the picture's: field, lab, histogram or none.",
            "Measured on the ring around what is repainted, see "
            ":func:`engine.picture.colour.match_colours`. ``field`` is a local correction (under a "
            "soft map the VAE's losses are given back too, for one more decode), the others are "
            "global. Without effect on latents and with ``compat``.",
        ),
        Names("colour", _colours),
        Option(metavar="NAME"),
        Recorded(),
    ] = "field"
    feather: Annotated[
        float,
        Group.FINISH,
        Help(
            "Width of the soft seam, in pixels; up to twice that where the picture goes on inside "
            "the mask as around it, and on new canvas.",
            "The fade lies inside the repainted region, over the original (on new canvas over the "
            "border's colours, and where something was to go over its surroundings continued), see "
            ":func:`engine.picture.fade.paste_alpha` and "
            ":func:`engine.picture.fade.fade_over`. Where the strength is "
            "0, pixels stay as they were to the bit.",
        ),
        Range(0, 4096),
        Option(),
        Recorded(),
    ] = 4.0
    grain: Annotated[
        Literal["none", "match"],
        Group.FINISH,
        Help(
            "What is done for grainy pictures: none or match.",
            "``match`` adds the noise of the surroundings, measured by frequency and brightness, "
            "to the edit, drawn from its seed; nothing where they have none. See "
            ":func:`engine.picture.grain.match_grain`.",
        ),
        Option(metavar="NAME"),
        Recorded(),
    ] = "none"
    paste: Annotated[
        str,
        Group.FINISH,
        Help(
            "How the result is laid over: alpha, adaptive, multiband or poisson.",
            "See :func:`engine.picture.paste.stitch`.",
        ),
        Names("paste", _pastes),
        Option(metavar="NAME"),
        Recorded(),
    ] = "alpha"
    keep_grey: Annotated[
        bool,
        Group.FINISH,
        Help("A grey picture gives a grey result; else the edit has colours."),
        Option("--keep-grey/--colours", default="grey"),
        Recorded(),
    ] = True
    paste_mask: Annotated[
        Any,
        Group.FINISH,
        Help(
            "With what opacity, in place of the map's support faded over the feather.",
            "As the strength map. It cannot paste where the strength is 0.",
        ),
        _IMAGE,
    ] = None
    prompt_embeds: Annotated[
        Any,
        Group.OUTPUT,
        Help(
            "The prompt embedded, in its place: 1 n d.",
            "As diffusers' ``encode_prompt`` makes it; SDXL's with its pooled embeddings. Not "
            "recorded.",
        ),
    ] = None
    negative_prompt_embeds: Annotated[
        Any,
        Group.OUTPUT,
        Help("The same of the negative prompt."),
    ] = None
    pooled_prompt_embeds: Annotated[
        Any,
        Group.OUTPUT,
        Help("SDXL's pooled embeddings of the prompt: 1 p."),
    ] = None
    negative_pooled_prompt_embeds: Annotated[
        Any,
        Group.OUTPUT,
        Help("The same of the negative prompt."),
    ] = None
    generator: Annotated[
        Any,
        Group.OUTPUT,
        Help(
            "A torch generator in the seed's place.",
            "With several pictures, one for each or one that draws their seeds.",
        ),
    ] = None
    latents: Annotated[
        Any,
        Group.OUTPUT,
        Help("Noisy latents to continue from at ``denoising_start``.", "b c h/cell w/cell."),
    ] = None
    denoising_start: Annotated[
        float | None,
        Group.OUTPUT,
        Help("Share of the training schedule at which the run starts, in place of ``strength``."),
        Range(0, 1, above=True, below=True),
        Recorded(),
    ] = None
    denoising_end: Annotated[
        float | None,
        Group.OUTPUT,
        Help(
            "Share at which it stops, leaving noisy latents for another run.",
            'With ``output_type="latent"``.',
        ),
        Range(0, 1, above=True, below=True),
        Recorded(),
    ] = None
    output_type: Annotated[
        Literal["pil", "np", "pt", "latent"],
        Group.OUTPUT,
        Help("What the result's ``images`` are.", "See :class:`~engine.EditResult`."),
    ] = "pil"
    compat: Annotated[
        Literal["diffusers"] | None,
        Group.OUTPUT,
        Help(
            "Do as diffusers' inpainting pipelines do.",
            "To the bit: their random draws, mask rounding and blending, without paste (strategies "
            "``blend`` and ``inpaint9``; ``differential`` is untouched by it but for the draws).",
        ),
        Recorded(),
    ] = None
    callback: Annotated[
        Callable[..., Any] | None,
        Group.OUTPUT,
        Help(
            "Called with a :class:`~engine.Snapshot` after every step.",
            "Its ``preview()`` is a picture to look at; returning False cancels.",
        ),
    ] = None
    progress: Annotated[
        bool | None,
        Group.OUTPUT,
        Help("Show a progress bar.", "None shows it on a terminal."),
    ] = None

"""What a family of models is: a record in :data:`FAMILIES`, and a file.

Built-in ones are in :mod:`engine.models.families`; other packages bring theirs through the
entry-point group ``softpaint.families``. A family's file says four things, and nothing else of the
engine changes for it:

- a :class:`~engine.models.network.Network` that calls the denoiser: latents b c h w in, what the
  scheduler's parameterisation predicts out; packing, patches and appended tokens are its affair;
- a :class:`~engine.models.text.TextEncoder` that makes a :class:`~engine.types.Conditioning` of a
  prompt: tensors by names that its network reads, pooled vectors (b p) among them. Texts (b n d)
  that may differ in length are named in ``masks``: they are padded and masked where calls are
  shared;
- a :class:`~engine.models.codec.Codec` for the VAE, where :func:`~engine.models.codec.codec_of`
  does not fit: scale, shift and any fifth dimension are its affair;
- the record: how a pipeline is recognised, what an edit takes where it does not say, how steps
  depend on the size, how guidance is combined.

Noise levels, strengths, strategies, sessions, shared calls and previews follow from these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.denoise.guidance import Guidance
from engine.errors import ModelError
from engine.models.codec import Codec, codec_of
from engine.models.peer import Peer
from engine.registry import Registry

if TYPE_CHECKING:
    from engine.models.header import Header
    from engine.models.layout import Layout, TransformerFile
    from engine.models.network import Network
    from engine.models.text import TextEncoder
    from engine.picture.geometry import Size

PEER = Peer()


@dataclass(frozen=True)
class Family:
    """A family of models."""

    name: str
    description: str
    """As messages name it."""
    pipelines: tuple[str, ...]
    """Class names of its pipelines, diffusers' or others."""
    denoiser: str
    """The pipeline's name for the module that denoises, such as ``"unet"``."""
    network: Callable[[Any], Network]
    """The adapter of such a module.

    Raises:
        ModelError: the module is of a kind that the family cannot run.
    """
    text: Callable[[Any], TextEncoder]
    """Of a loaded pipeline."""
    codec: Callable[[Any], Codec] = codec_of
    """Of a loaded pipeline."""
    module: str = ""
    """The class of its denoiser, where that tells the family: a pipeline of a class that is not
    among ``pipelines`` is of it all the same."""
    fits: Callable[[Any], bool] | None = None
    """Whether a loaded pipeline is of the family by its parts and their configs: what decides where
    there is no ``module``, and what must hold besides where there is one."""
    may_have: Callable[[Mapping[str, Any]], bool] | None = None
    """The same from a pipeline's ``model_index.json``, before anything of it is loaded."""
    layouts: tuple[Layout, ...] = ()
    """How its whole models stand in one file; the first that fits is taken."""
    defaults: Callable[[Any], Mapping[str, Any]] = lambda _: {}
    """Settings of an edit with a loaded pipeline, by the names of ``InpaintEngine.edit``, where
    neither the edit nor what is known of the checkpoint says: ``num_inference_steps``,
    ``guidance_scale``, ``scheduler``, ``native_size``."""
    solver_arguments: Callable[[Any, Size, int], Mapping[str, Any]] = lambda *_: {}
    """What ``set_timesteps`` is told besides the number of steps: of a scheduler, the canvas
    (height, width) in latents and the steps of a run at strength 1. ``mu``, the logarithm of the
    shift of flow levels, reaches every solver (:func:`engine.solvers.shift.dynamic_shift` makes
    it); ``sigmas``, the levels before that shift, those that take some."""
    guidance: Callable[..., Guidance] = Guidance
    """How its predictions with and without the prompt become one: of :class:`Guidance` or derived
    from it."""
    transformers: tuple[TransformerFile, ...] = ()
    """How its denoiser stands alone in a file; the first that fits is taken."""
    half: str = "float16"
    """The type of its weights on a GPU, where the user says none."""
    inpaint_pipeline: str | None = None
    """The class of diffusers' own inpainting pipeline, which is evaluated beside the engine."""
    controlnets: tuple[str, ...] = ()
    """Diffusers' classes of its ControlNets."""
    peer: Peer = PEER
    """What it does in other ways than SD's does."""

    def claims(self, pipe: Any) -> bool:
        """Whether ``pipe`` is of this family."""
        names = {kind.__name__ for kind in type(pipe).__mro__}
        kind = type(getattr(pipe, self.denoiser, None)).__name__
        return not names.isdisjoint(self.pipelines) or self._is_of(kind, self.fits, pipe)

    def lists(self, index: Mapping[str, Any]) -> bool:
        """Whether the parts that a ``model_index.json`` lists are this family's."""
        part = index.get(self.denoiser)
        kind = str(part[-1]) if isinstance(part, list) and part else ""
        return self._is_of(kind, self.may_have, index)

    def _is_of(self, kind: str, told: Callable[[Any], bool] | None, whole: Any) -> bool:
        """By the class of the denoiser, and by what is told of the ``whole``."""
        if self.module:
            return kind == self.module and (told is None or told(whole))
        return told is not None and told(whole)


FAMILIES = Registry("family", Family, "softpaint.families")


def family_of(pipe: Any) -> Family:
    """The family of a loaded pipeline.

    Raises:
        ModelError: it is of none that is registered.
    """
    for family in FAMILIES:
        if family.claims(pipe):
            return family
    raise ModelError(unsupported(type(pipe).__name__))


def layout_of(header: Header) -> tuple[Family, Layout] | None:
    """The family of a single file and how it stands there; None if it is of none."""
    every = ((family, layout) for family in FAMILIES for layout in family.layouts)
    return next((each for each in every if each[1].marks(header)), None)


def transformer_of(header: Header) -> tuple[Family, TransformerFile] | None:
    """The family of a file that holds a transformer, and how it stands there; None if it is of
    none.
    """
    every = ((family, file) for family in FAMILIES for file in family.transformers)
    return next((each for each in every if each[1].prefix(header) is not None), None)


def unsupported(what: str) -> str:
    """A line that says that ``what`` is of no family that is there, and which are."""
    known = ", ".join(each.description for each in FAMILIES)
    return f"{what} is of a family that is not supported; supported: {known}."

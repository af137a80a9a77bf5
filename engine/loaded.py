"""A loaded model: opened, taught by adapters, made quicker; what an engine is built upon."""

from __future__ import annotations

import os
from typing import Any, Self

from engine.edit.strategies import OF_A_STAGE
from engine.errors import InputError
from engine.models import Backbone, backbone_for
from engine.models.formats.adapters import Adapters, Embedding, Lora, find_file, several
from engine.models.formats.arguments import check_places, told_of_strangers
from engine.models.formats.early import check_adapters
from engine.models.formats.places import portable
from engine.models.formats.vaes import load_preview_vae
from engine.models.opening import open_model
from engine.models.previews import Previewer
from engine.models.speed.optimise import optimise


class LoadedModel:
    """A model with its adapters, and what is beside it. Made by :meth:`from_pretrained` or
    :meth:`from_pipe`.
    """

    def __init__(self, backbone: Backbone, name: str) -> None:
        self.backbone = backbone
        self.name = name
        self.adapters = Adapters(backbone.pipe)
        self._load: dict[str, Any] = {}

    @property
    def load(self) -> dict[str, Any]:
        """The arguments of :meth:`from_pretrained` that make it, as a record holds them."""
        return {**self._load, **self.adapters.recorded()}

    @property
    def pipe(self) -> Any:
        """The diffusers pipeline underneath, for LoRA, textual inversion, offload and the like."""
        return self.backbone.pipe

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found out or decided when the model was loaded: a sentence each."""
        return self.backbone.notes

    @classmethod
    @told_of_strangers
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "pocket",
        inpaint_model: str | os.PathLike[str] | None = None,
        dtype: Any = None,
        device: Any = None,
        vae: str | os.PathLike[str] | None = None,
        prediction_type: str | None = None,
        *,
        inpaint_patch: Any = None,
        base: str | os.PathLike[str] | None = None,
        text_encoder: Any = None,
        lora: Any = None,
        embedding: Any = None,
        ip_adapter: Any = None,
    ) -> Self:
        """Load a model. No hub is asked for what is in a file: configs and vocabulary of SD 1.x,
        SD 2.x and SDXL are part of this package. Of diffusers' names ``torch_dtype``, and a
        ``device_map`` that is a device, work too; the others are answered with what holds instead.

        Args:
            model: ``"pocket"`` or ``"pocket-flow"`` (embedded, need no download), a diffusers
                folder, a hub id, or a single ``.safetensors`` or ``.gguf`` file: a whole checkpoint
                of SDXL, SD 1.x and SD 2.x, the transformer alone of flow models.
            inpaint_model: where the 9-channel inpainting UNet is, for the strategies that use it.
            dtype: a torch dtype or its name; if None float32 on the CPU, on a GPU float16, for flow
                models bfloat16.
            device: a torch device or its name; the best that is there if None.
            vae: where the VAE is that takes the place of the model's own: a folder, a hub id or a
                file; an ``AutoencoderTiny`` too.
            prediction_type: ``"epsilon"`` or ``"v_prediction"``, where the model does not say, or
                says otherwise.
            inpaint_patch: in ``inpaint_model``'s place, Fooocus' patch, which makes one of any SDXL
                checkpoint: ``inpaint_v26.fooocus.patch``, beside which
                ``fooocus_inpaint_head.pth`` lies, or both files as (patch, head).
            base: for a transformer alone in a file, where the rest is (text encoders, tokenizers,
                VAE, scheduler): a folder or a hub id of the whole model; if None the family's own
                on the hub.
            text_encoder: where text encoders are that take the places of the model's own: a folder,
                a hub id or a file, or several; their tokenizers stay the model's.
            lora: ``"FILE[:WEIGHT]"``, a (file, weight) pair, or a list of such: see
                :meth:`load_lora`.
            embedding: ``"FILE[:TOKEN]"``, a (file, token) pair, or a list of such: see
                :meth:`load_embedding`.
            ip_adapter: an IP-Adapter's file, or a list of such; the image encoder that they read
                pictures with is looked for beside them (``image_encoder/``). An edit's
                ``ip_adapter_image`` has an entry for each.

        Raises:
            InputError: a dtype, device or prediction type that cannot be used.
            ModelError: the model is missing, unreachable or of an unsupported family; a LoRA or an
                embedding is missing or made for another.
        """
        check_places(model=model, inpaint_model=inpaint_model, vae=vae, base=base)
        loras, embeddings = several(lora, Lora.of), several(embedding, Embedding.of)
        references = several(ip_adapter, os.fspath)
        check_adapters(
            [each.place for each in loras],
            [each.place for each in embeddings],
            references,
            find_file,
        )
        opened = {
            "model": model,
            "inpaint_model": inpaint_model,
            "inpaint_patch": inpaint_patch,
            "dtype": dtype,
            "device": device,
            "vae": vae,
            "prediction_type": prediction_type,
            "base": base,
            "text_encoder": text_encoder,
        }
        engine = cls(open_model(**opened), str(model))
        engine._load = portable(opened)
        engine.adapters.add_all(loras, embeddings, references)
        return engine

    @classmethod
    def from_pipe(cls, pipe: Any, inpaint_unet: Any = None) -> Self:
        """Share a loaded diffusers pipeline's modules; nothing in it is changed.

        Args:
            pipe: a pipeline of any family that is supported: text-to-image, image-to-image,
                inpainting, or one that edits by instruction.
            inpaint_unet: a 9-channel ``UNet2DConditionModel`` of the same family. Where ``pipe``
                has an IP-Adapter, it is lent that when it is used.

        Raises:
            ModelError: the pipeline or the UNet is of an unsupported kind.
        """
        backbone = backbone_for(pipe, inpaint_unet)
        name = getattr(pipe.config, "_name_or_path", None) or type(pipe).__name__
        return cls(backbone, str(name))

    def beside(self, name: str, other: LoadedModel, **settings: Any) -> None:
        """Let stages of an edit run on another model: one lays out, another paints the texture.

        ``edit(strategy="staged", stages="blend,differential", models=",NAME")`` runs the first on
        this engine's model and the second on ``other``'s, through pixels, with one map and one
        seed.

        Args:
            name: what ``models`` calls it.
            other: an engine with that model, of any family.
            settings: of its stages, in place of that model's own: ``num_inference_steps``,
                ``guidance_scale``, ``guidance_rescale``, ``scheduler``, ``instruct``.

        Raises:
            InputError: an empty name or one with a comma, this engine itself, or another setting.
        """
        if not name or "," in name or name != name.strip():
            raise InputError(f"a model's name is text without commas, not {name!r}.")
        given: object = other
        if not isinstance(given, LoadedModel):
            raise InputError(f"beside takes another InpaintEngine, not {type(given).__name__}.")
        if other.backbone is self.backbone:
            raise InputError("a model stands beside another one, not beside itself.")
        if strange := sorted(settings.keys() - set(OF_A_STAGE)):
            raise InputError(f"{strange[0]} is the edit's, not a model's; {', '.join(OF_A_STAGE)}.")
        self.backbone.others[name] = other.backbone, settings

    def optimise(self, *options: str) -> Self:
        """Make the loaded model faster or smaller, with diffusers' own means; changes its modules.

        Args:
            *options: names of :data:`engine.models.speed.optimise.OPTIMISATIONS`,
                which says what each one gives and costs. None is the level ``"speed"``.

        Raises:
            InputError: an unknown option, or one that this device cannot have.
        """
        optimise(self.backbone, options or ("speed",))
        return self

    def load_lora(self, file: Any, weight: float | None = None, *, name: str | None = None) -> str:
        """Lay a LoRA over the model, the inpainting UNet beside it included.

        LoRA, LoCon, LoHa, LoKr and DoRA, with kohya's or diffusers' names; of flow models what
        diffusers' own loaders read. Loaded again under its name it only gets another weight.

        Args:
            file: a ``.safetensors`` file (``"FILE[:WEIGHT]"``), a folder, or a hub id.
            weight: how much of it; 0 is off. 1 if None.
            name: how :meth:`unload_lora` calls it; the file's if None.

        Returns:
            Its name.

        Raises:
            ModelError: it is missing, no LoRA, or of another family.
        """
        return self.adapters.add_lora(Lora.of(file if weight is None else (file, weight)), name)

    def unload_lora(self, name: str | None = None) -> None:
        """Take a LoRA out again, all if None: the model is what it was, to the bit.

        Raises:
            InputError: there is none of that name.
        """
        self.adapters.remove_lora(name)

    def load_embedding(self, file: Any, token: str | None = None) -> str:
        """Teach the text encoders a textual inversion.

        Args:
            file: ``.safetensors``, ``.pt`` or ``.bin`` (``"FILE[:TOKEN]"``): SDXL's for both
                encoders, or for one.
            token: the word for it in prompts; what the file says, or its name, if None.

        Returns:
            The word.

        Raises:
            ModelError: it is missing, no embedding, or for other text encoders.
            InputError: the word has spaces, or is taken.
        """
        return self.adapters.add_embedding(Embedding.of(file if token is None else (file, token)))

    def unload_embedding(self, token: str | None = None) -> None:
        """Forget an embedding, all if None. Raises ``InputError`` if there is none of that word."""
        self.adapters.remove_embedding(token)

    def preview_with(self, model: Any) -> Self:
        """Make the previews of snapshots with a tiny VAE, which draws shapes; without one they are
        a projection of the latents to colours.

        Args:
            model: a folder or hub id of diffusers' ``AutoencoderTiny`` (``madebyollin/taesdxl``,
                ``madebyollin/taesd``), a loaded one, or None for the projection.

        Raises:
            ModelError: it is missing, unreachable or made for other latents.
        """
        if isinstance(model, str | os.PathLike):
            channels, dtype = self.backbone.latent_channels, self.backbone.dtype
            model = load_preview_vae(model, channels, dtype, self.backbone.device)
        self.backbone.previewer = Previewer(self.backbone, model)
        return self

    def clear_cache(self) -> None:
        """Forget encoded prompts and pictures. New weights and adapters are noticed; this is for
        changes to the model that are neither, and to free memory.
        """
        self.backbone.forget()

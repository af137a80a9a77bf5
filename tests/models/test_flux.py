"""Flux.1, Fill and Flux.2 on tiny real models: everything that works with other families does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    ChromaImg2ImgPipeline,
    ChromaInpaintPipeline,
    ChromaPipeline,
    Flux2KleinPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
)

from engine import InpaintEngine
from engine.errors import InputError, ModelError
from engine.models.families.flux import FluxNetwork
from engine.models.families.flux2 import empirical_shift
from engine.models.family import family_of
from engine.models.packing import packed, patched, unpacked, unpatched
from strategies import get_strategy
from tests.kit import tiny, tiny_flux
from tests.kit.tiny import SIZE, edited

BASE = [
    name
    for name in tiny.STRATEGIES
    if get_strategy(name).network == "base" and name != "erase"  # it is for UNets
]
RAMP = np.tile(np.linspace(0, 1, SIZE, dtype=np.float32), (SIZE, 1))


@pytest.fixture(scope="module")
def dev():
    return InpaintEngine.from_pipe(FluxPipeline(**tiny_flux.modules()))


@pytest.fixture(scope="module")
def fill():
    return InpaintEngine.from_pipe(FluxFillPipeline(**tiny_flux.modules(fill=True)))


@pytest.fixture(scope="module")
def chroma():
    return InpaintEngine.from_pipe(ChromaPipeline(**tiny_flux.chroma_modules()))


@pytest.fixture(scope="module")
def klein():
    return InpaintEngine.from_pipe(Flux2KleinPipeline(**tiny_flux.flux2_modules()))


def told(seed: int = 4) -> dict[str, object]:
    """A prompt for Klein, and guidance off."""
    return {"prompt": None, "prompt_embeds": tiny_flux.embedded(seed=seed), "guidance_scale": 1.0}


class TestShapes:
    def test_packing_is_undone(self):
        latents = torch.randn(2, 3, 4, 6)
        assert packed(latents).shape == (2, 6, 12)
        assert torch.equal(unpacked(packed(latents), 4, 6), latents)
        assert torch.equal(unpatched(patched(latents)), latents)
        # Flux.2's two steps are Flux.1's one.
        assert torch.equal(patched(latents).flatten(2).movedim(1, 2), packed(latents))

    def test_packing_is_diffusers(self):
        latents = torch.randn(2, 4, 4, 6)
        assert torch.equal(packed(latents), FluxPipeline._pack_latents(latents, 2, 4, 4, 6))
        assert torch.equal(patched(latents), Flux2KleinPipeline._patchify_latents(latents))

    @pytest.mark.parametrize(("tokens", "steps"), [(16, 4), (4096, 28), (4300, 50), (9000, 4)])
    def test_the_shift_is_diffusers(self, tokens, steps):
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        assert empirical_shift(tokens, steps) == pytest.approx(compute_empirical_mu(tokens, steps))

    def test_a_batch_norms_statistics_are_undone(self, klein):
        latents = torch.randn(1, 4, 8, 8)
        codec = klein.backbone.codec
        assert torch.allclose(codec._unscaled(codec._scaled(latents)), latents, atol=1e-6)
        assert not torch.allclose(codec._scaled(latents), latents, atol=0.1)


class TestRecognition:
    @pytest.mark.parametrize("kind", [FluxPipeline, FluxImg2ImgPipeline, FluxInpaintPipeline])
    def test_pipelines_by_class_and_by_parts(self, dev, kind):
        pipe = kind(**dev.pipe.components)
        assert family_of(pipe).name == "flux"
        assert family_of(type("Community", (), dict(pipe.components))()).name == "flux"

    def test_defaults_are_the_checkpoints(self, dev, fill, klein):
        assert dev.backbone.defaults == {"num_inference_steps": 28, "guidance_scale": 3.5}
        assert fill.backbone.defaults["strategy"] == "fill"
        assert klein.backbone.defaults["num_inference_steps"] == 50
        schnell = InpaintEngine.from_pipe(FluxPipeline(**tiny_flux.modules(guidance=False)))
        assert schnell.backbone.defaults == {"num_inference_steps": 4, "guidance_scale": 1.0}
        assert (dev.backbone.align, dev.backbone.native_size) == (16, 1024)

    def test_control_transformers_are_refused(self):
        module = tiny_flux.transformer()
        module.register_to_config(in_channels=2 * module.config.in_channels)
        with pytest.raises(ModelError, match="Flux' control models"):
            FluxNetwork(module)


class TestEdits:
    @pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
    @pytest.mark.parametrize("strategy", BASE)
    def test_every_strategy_keeps_what_it_must(self, dev, strategy):
        result = dev.edit(
            image=tiny.picture(),
            mask=tiny.box_mask(),
            prompt="a red house",
            num_inference_steps=3,
            strategy=strategy,
            seed=1,
        )
        outside = np.asarray(tiny.box_mask()) == 0
        pixels, before = np.asarray(result.images[0]), np.asarray(tiny.picture())
        assert np.array_equal(pixels[outside], before[outside])
        assert not np.array_equal(pixels[~outside], before[~outside])

    @pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
    def test_a_flat_map_is_a_run_of_its_strength(self, dev):
        half = edited(dev, strength_map=np.full((SIZE, SIZE), 0.5, np.float32))
        assert torch.equal(half.latents, edited(dev, strength=0.5).latents)
        assert not torch.equal(half.latents, edited(dev).latents)

    def test_guidance_is_told_and_schnell_knows_none(self, dev):
        weak, strong = (edited(dev, guidance_scale=scale) for scale in (1.0, 8.0))
        assert not torch.equal(weak.latents, strong.latents)
        assert weak.model_calls == strong.model_calls == 4

    def test_shared_calls_and_sessions(self, dev):
        """Rows of other steps and strengths in one call: the last bits of larger products."""
        requests = [
            {
                "image": tiny.picture(),
                "strength_map": RAMP,
                "prompt": prompt,
                "num_inference_steps": steps,
                "seed": 3,
                "output_type": "latent",
            }
            for prompt, steps in (("a house", 10), ("a red boat at sea", 12))
        ]
        for request, shared in zip(requests, dev.edit_many(requests), strict=True):
            alone = dev.edit(**request)
            assert torch.allclose(shared.latents, alone.latents, atol=1e-4)
        plain = {k: v for k, v in requests[0].items() if k not in {"strength_map", "output_type"}}
        session = dev.session(**plain)
        session.render(strength_map=RAMP)
        changed = np.where(RAMP < 0.5, RAMP / 2, RAMP).astype(np.float32)
        again = session.render(strength_map=changed)
        alone = dev.edit(strength_map=changed, **plain)
        assert again.reused_calls > 0
        assert np.array_equal(np.asarray(again.images[0]), np.asarray(alone.images[0]))

    def test_embedded_prompts_and_what_is_wrong_with_them(self, dev):
        with torch.no_grad():
            cond, _ = dev.backbone.encode_prompt("a red house", None, guided=False, size=(64, 64))
        hidden, pooled = cond.tensors.values()
        given = {"prompt": None, "prompt_embeds": hidden, "pooled_prompt_embeds": pooled}
        assert torch.equal(edited(dev, **given).latents, edited(dev).latents)
        with pytest.raises(InputError, match="pooled_prompt_embeds"):
            edited(dev, prompt=None, prompt_embeds=hidden)
        with pytest.raises(InputError, match="1 n 32"):
            edited(dev, **{**given, "prompt_embeds": hidden[..., :8]})


class TestChroma:
    @pytest.mark.parametrize("kind", [ChromaPipeline, ChromaImg2ImgPipeline, ChromaInpaintPipeline])
    def test_pipelines_by_class_and_by_parts(self, chroma, kind):
        pipe = kind(**chroma.pipe.components)
        assert family_of(pipe).name == "chroma"
        assert family_of(type("Community", (), dict(pipe.components))()).name == "chroma"
        assert InpaintEngine.from_pipe(pipe).backbone.defaults["guidance_scale"] == 5.0

    def test_a_text_is_its_words_their_end_and_one_token_more(self, chroma):
        """And what follows makes no difference, though diffusers' mask lets some of it through."""
        (cond, _), (longer, _) = (
            chroma.backbone.encode_prompt(text, None, guided=False, size=(64, 64))
            for text in ("abc", "a longer text")
        )
        assert cond.text.shape[1] == 3 + 2
        network, sample = chroma.backbone.main, torch.randn(1, 4, 8, 8)
        time = torch.full((1,), 500.0)
        with torch.no_grad():
            alone = network.predict(sample, time, cond, {})
            both = cond.join([cond, longer])
            shared = network.predict(sample.repeat(2, 1, 1, 1), time.repeat(2), both, {})
        assert both.tensors["attention_mask"].sum(dim=1).tolist() == [5, 11 + 2]
        torch.testing.assert_close(shared[:1], alone, atol=1e-5, rtol=0)

    def test_it_is_guided_by_the_negative_prompt(self, chroma):
        run = {"guidance_scale": 4.0, "num_inference_steps": 2}
        fog, none = (edited(chroma, **run, negative_prompt=each).latents for each in ("fog", None))
        assert not torch.equal(fog, none)


class TestFill:
    def test_it_sees_mask_and_surroundings(self, fill):
        """The mask as fine as the pixels; the strength map's edges make no difference to it."""
        seen = []
        module = fill.backbone.main.module
        hook = module.register_forward_pre_hook(
            lambda _, __, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
        )
        mask = np.zeros((SIZE, SIZE), np.float32)
        mask[20:41, 13:50] = 1
        edited(fill, strength_map=mask, num_inference_steps=1)
        hook.remove()
        own = 4 * tiny_flux.LATENTS
        told = unpacked(seen[0], 8, 8)[0, own // 4 * 2 :]
        pixels = told.view(8, 8, 8, 8).permute(2, 0, 3, 1).reshape(SIZE, SIZE)
        assert np.array_equal(pixels.numpy(), mask)

    @pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
    def test_with_differential_a_soft_map_is_one(self, fill):
        half = {"strength_map": np.full((SIZE, SIZE), 0.5, np.float32)}
        alone = edited(fill, **half)
        held = edited(fill, **half, strategy="fill+differential")
        run = edited(fill, strength=0.5, strategy="fill+differential")
        assert torch.equal(held.latents, run.latents)
        assert not torch.equal(held.latents, alone.latents)

    def test_other_strategies_need_another_network(self, fill, dev):
        with pytest.raises(InputError, match="needs the text-to-image network"):
            edited(fill, strategy="blend")
        with pytest.raises(InputError, match="give Flux Fill as model="):
            edited(dev, strategy="fill")


class TestInstructions:
    def test_the_picture_is_shown(self, klein):
        """And what it shows makes a difference, which a text-only run has not."""
        shown = edited(klein, **told(), instruct=True, strategy="whole")
        other = edited(klein, **told(), instruct=True, strategy="whole", image=tiny.picture(seed=5))
        plain, again = (
            edited(klein, **told(), strategy="whole", image=tiny.picture(seed=seed))
            for seed in (0, 5)
        )
        assert torch.equal(plain.latents, again.latents)  # from noise, of which it knows nothing
        assert not torch.equal(shown.latents, other.latents)
        assert not torch.equal(shown.latents, plain.latents)

    @pytest.mark.filterwarnings("ignore::strategies.FewStepsWarning")
    @pytest.mark.parametrize("strategy", ["whole", "differential", "blend"])
    def test_outside_the_map_the_original_stays(self, klein, strategy):
        result = klein.edit(
            image=tiny.picture(),
            mask=tiny.box_mask(),
            num_inference_steps=3,
            seed=1,
            instruct=True,
            strategy=strategy,
            **told(),
        )
        outside = np.asarray(tiny.box_mask()) == 0
        pixels, before = np.asarray(result.images[0]), np.asarray(tiny.picture())
        assert np.array_equal(pixels[outside], before[outside])
        assert not np.array_equal(pixels[~outside], before[~outside])
        assert result.settings["instruct"] is True

    def test_kontext_is_known_by_its_pipeline_and_shown_the_picture(self):
        model = InpaintEngine.from_pipe(FluxKontextPipeline(**tiny_flux.modules()))
        assert model.backbone.family.name == "flux-kontext"
        assert model.backbone.defaults["guidance_scale"] == 2.5
        shown, other = (
            edited(model, instruct=True, strategy="whole", image=tiny.picture(seed=seed))
            for seed in (0, 5)
        )
        assert not torch.equal(shown.latents, other.latents)

    def test_others_take_none(self, dev):
        with pytest.raises(InputError, match=r"such as Flux\.2"):
            edited(dev, instruct=True)

    def test_without_its_language_model_it_says_so(self, klein):
        with pytest.raises(InputError, match="text_encoder is not loaded"):
            edited(klein, guidance_scale=1.0)

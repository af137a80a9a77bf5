"""diffusers' names of an edit's arguments."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)

from engine import CancelledError, InputError
from engine.request.aliases import ALIASES, own_names
from engine.request.request import EditRequest
from strategies import list_strategies, options_of
from tests.kit import tiny


def request(**changes):
    arguments = {"image": tiny.picture(), "prompt": "a red house", "num_inference_steps": 2}
    return {**arguments, "seed": 1, "mask": tiny.box_mask(), **changes}


def test_diffusers_names_give_the_same_pictures(engine):
    own = engine.edit(**request(num_images=2, region="mask", padding=4))
    theirs = request(num_images_per_prompt=2, padding_mask_crop=4)
    theirs["mask_image"] = theirs.pop("mask")
    # As a pipeline's caller spells what is not used.
    got = engine.edit(**theirs, prompt_embeds=None, callback_on_step_end=None)
    assert got.settings == own.settings
    for one, other in zip(own.images, got.images, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        ({"mask": "m.png"}, {"mask_image": "m.png"}),
        ({"num_images": 2}, {"num_images_per_prompt": 2}),
        ({"padding": 2}, {"padding_mask_crop": 2}),
        ({"callback": print}, {"callback_on_step_end": print}),
    ],
)
def test_both_names_of_a_setting_are_refused(own, theirs):
    with pytest.raises(InputError, match=f"give either .*= or {min(theirs)}="):
        own_names({**own, **theirs})


@pytest.mark.parametrize(
    "name",
    [
        *("control_image", "prompt_2", "height", "timesteps", "sigmas", "cross_attention_kwargs"),
        *("original_size", "crops_coords_top_left", "aesthetic_score", "callback_steps"),
    ],
)
def test_what_is_not_taken_is_named_with_what_holds_instead(name):
    with pytest.raises(InputError, match=rf"^{name}= is (no setting: \w+|diffusers' way).{{20}}"):
        own_names(request(**{name: object()}))


@pytest.mark.parametrize(
    "pipeline",
    [
        *(StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline),
        *(StableDiffusionXLImg2ImgPipeline, StableDiffusionXLControlNetInpaintPipeline),
        *(StableDiffusionPipeline, StableDiffusionXLPipeline),
    ],
)
def test_every_argument_of_diffusers_is_known(pipeline):
    taken = set(inspect.signature(pipeline.__call__).parameters) - {"self", "kwargs"}
    assert taken <= set(ALIASES) | set(EditRequest.__dataclass_fields__)


def test_what_is_returned_is_no_choice():
    assert own_names({"return_dict": True, "seed": 1}) == {"seed": 1}
    with pytest.raises(InputError, match=r"return_dict=False is no setting: .*\.images"):
        own_names({"return_dict": False})


def test_no_alias_is_a_setting_or_a_strategys_option():
    assert not set(ALIASES) & set(EditRequest.__dataclass_fields__)
    assert not set(ALIASES) & {each for name in list_strategies() for each in options_of(name)}


class TestStepEnd:
    def test_it_is_called_as_diffusers_does(self, engine):
        calls = []

        def watch(pipe, step, timestep, callback_kwargs):
            calls.append((pipe, step, float(timestep), sorted(callback_kwargs)))
            assert callback_kwargs["latents"].shape == (1, 4, 8, 8)
            return callback_kwargs

        inputs = ["latents", "denoised"]
        engine.edit(
            **request(callback_on_step_end=watch, callback_on_step_end_tensor_inputs=inputs)
        )
        assert [call[1] for call in calls] == [0, 1]
        assert all(call[0] is engine.pipe and call[3] == sorted(inputs) for call in calls)
        assert calls[0][2] > calls[1][2] > 0

    def test_interrupting_the_pipeline_cancels(self, engine):
        def stop(pipe, _step, _timestep, callback_kwargs):
            pipe._interrupt = True
            return callback_kwargs

        with pytest.raises(CancelledError):
            engine.edit(**request(callback_on_step_end=stop))
        assert not engine.pipe._interrupt

    @pytest.mark.parametrize("in_place", [True, False])
    def test_changing_the_latents_is_refused(self, engine, in_place):
        def change(_pipe, _step, _timestep, callback_kwargs):
            latents = callback_kwargs["latents"]
            return {"latents": latents.mul_(2) if in_place else latents * 2}

        with pytest.raises(InputError, match="changed latents"):
            engine.edit(**request(callback_on_step_end=change))

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            (["prompt_embeds"], "takes latents and denoised, not 'prompt_embeds'"),
            ("latents", "must be a list of names, not 'latents'"),
            (3, "must be a list of names, not 3"),
        ],
    )
    def test_what_it_cannot_be_given_is_refused(self, inputs, message):
        asked = {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": inputs}
        with pytest.raises(InputError, match=message):
            own_names(asked)


class TestPrompts:
    def test_each_prompt_is_an_edit_of_its_own(self, engine):
        prompts = ["a red house", "a boat", "the sea"]
        several = engine.edit(**request(prompt=prompts, output_type="np"))
        assert several.seeds == [1, 2, 3]
        assert several.settings["prompt"] == prompts
        for index, prompt in enumerate(prompts):
            alone = engine.edit(**request(prompt=prompt, seed=1 + index, output_type="np"))
            # Shared model calls round differently in the last bits, and pixels are whole levels.
            assert np.abs(several.images[index] - alone.images[0]).max() <= 1.01 / 255

    def test_as_many_pictures_as_prompts_are_paired(self):
        made = EditRequest(
            image=["a.png", "b.png"],
            mask="m.png",
            prompt=["a", "b"],
            negative_prompt=["x", "y"],
            num_images=3,
            seed=10,
        ).split()
        told = [(each.image, each.mask, each.text, each.negative_text, each.seed) for each in made]
        assert told == [("a.png", "m.png", "a", "x", 10), ("b.png", "m.png", "b", "y", 13)]

    def test_without_a_seed_one_is_drawn_for_all(self):
        made = EditRequest(image="a.png", mask="m.png", prompt=["a", "b"], num_images=2).split()
        seeds = [each.seed for each in made]
        assert None not in seeds
        assert seeds[1] == (seeds[0] or 0) + 2

    def test_generators_go_to_their_pictures(self):
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        base = EditRequest(image="a.png", mask="m.png", prompt=["a", "b"], generator=generators)
        assert [each.generator for each in base.split()] == [[each] for each in generators]
        one = EditRequest(
            image="a.png", mask="m.png", prompt=["a", "b"], generator=generators[0]
        ).split()
        assert one[0].seed != one[1].seed

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"prompt": []}, "prompt must be a string"),
            ({"prompt": ["a", 3]}, "prompt must be a string"),
            ({"negative_prompt": ["x", "y"]}, "as many prompts"),
            ({"prompt": ["a", "b"], "image": ["p.png"] * 3}, "3 for image and 2 prompts"),
            ({"prompt": ["a", "b"], "generator": [object()]}, "1 generators for 2 pictures"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, changes, message):
        arguments = {"image": "p.png", "mask": "m.png", "prompt": "a", **changes}
        with pytest.raises(InputError, match=message):
            EditRequest(**arguments).split()


def test_padding_is_the_cut_out_around_the_mask(engine):
    """The mask's bounding box and so many pixels, as diffusers' ``padding_mask_crop``, in a cut-out
    of the shape and alignment that the model works on.
    """
    mask = np.zeros((128, 128), bool)
    mask[40:56, 64:96] = True
    result = engine.edit(
        **request(image=tiny.picture(128), mask=mask, region="mask", padding=8, native_size=16)
    )
    left, top, right, bottom = result.settings["regions"][0][:4]
    assert 48 <= left <= 56
    assert 16 <= top <= 32
    assert 104 <= right <= 112
    assert 64 <= bottom <= 80

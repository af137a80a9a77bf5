"""In float32 an edit is the same picture on the device as on the CPU, whatever takes part in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.pocket.world import sample_edits
from strategies import list_strategies
from tests.kit.devices import CUDA, DEVICE, apart, cuda_only, hard, on_device, pixels, repainted
from tests.kit.pocket_edits import EDITS

pytestmark = on_device
NAMES = pytest.mark.parametrize("name", EDITS)


def test_every_strategy_that_the_model_can_run_is_tried():
    tried = {settings.get("strategy", "differential") for _, settings in EDITS.values()}
    assert set(list_strategies()) - {"fill"} <= tried


def test_the_model_is_on_the_device(single):
    parts = ("unet", "vae", "text_encoder", "text_encoder_2")
    found = {getattr(single.pipe, part).device.type for part in parts}
    assert found == {torch.device(DEVICE).type}


@NAMES
def test_the_picture_is_the_cpus(made, name):
    """Sums in another order are off by 1e-6; six steps and guidance make less than 1e-3 of that,
    so that a value is rounded to the next level now and then. One that is off by more than two
    levels is another picture: another draw, another step.
    """
    values = apart(made("cpu", name), made("single", name))
    assert values.mean() < 0.05
    assert (values > 2).mean() < 1e-4


@pytest.mark.parametrize("there", ["single", "half"])
@pytest.mark.parametrize(
    "name", [n for n, (_, told) in EDITS.items() if not (told.get("expand") or told.get("compat"))]
)
def test_what_is_kept_is_the_photos_to_the_bit(made, name, there):
    """Not beside new canvas, where the photo lies elsewhere, nor in diffusers' way, which keeps
    nothing to the bit.
    """
    _, settings = EDITS[name]
    kept = ~repainted(settings)
    photo = np.asarray(settings["image"]).astype(int)
    for picture in pixels(made(there, name)):
        assert np.array_equal(picture[kept], photo[kept])


@NAMES
def test_the_same_seeds_are_chosen(made, name):
    assert made("single", name).seeds == made("cpu", name).seeds


@NAMES
def test_as_many_model_calls_are_made(made, name):
    assert made("single", name).model_calls == made("cpu", name).model_calls


@pytest.mark.parametrize("name", ["differential", "inpaint9", "think", "canny", "flow, blend"])
def test_tf32_changes_little(made, single, flows, name):
    """Products with 10 bits of mantissa, as torch has them for convolutions by itself, are off by
    5e-4 of a value: a fraction of a level in the mean, a few levels at an edge.
    """
    model, settings = EDITS[name]
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    engine = flows["single"] if model == "pocket-flow" else single
    values = apart(engine.edit(**settings), made("cpu", name))
    assert values.mean() < 1
    assert (values > 8).mean() < 1e-3


def test_the_settings_name_the_device(made):
    assert made("single", "blend").settings["device"] == torch.device(DEVICE).type


# --- what the caller has on the device ------------------------------------------------------------


def test_pictures_and_masks_may_lie_on_it(made, single):
    settings = hard(strategy="blend")
    photo = torch.from_numpy(np.array(settings["image"])).permute(2, 0, 1).float() / 255
    mask = torch.from_numpy(settings["mask"]).float()
    got = single.edit(**{**settings, "image": photo.to(DEVICE), "mask": mask.to(DEVICE)})
    assert apart(got, made("single", "blend")).max() == 0


def test_latents_may_lie_on_it(single):
    settings = hard(strategy="blend", output_type="latent", mask=None)
    given = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    ones = np.ones((128, 128), np.float32)
    here = single.edit(**{**settings, "image": given, "strength_map": ones}).latents
    there = single.edit(**{**settings, "image": given.to(DEVICE), "strength_map": ones}).latents
    assert torch.equal(here, there)


def test_a_generator_of_the_device_draws(single):
    """Twice the same, for it is given in the same state."""
    settings = hard(strategy="think")
    del settings["seed"]

    def edited():
        return single.edit(**settings, generator=torch.Generator(DEVICE).manual_seed(5))

    assert apart(edited(), edited()).max() == 0


def test_a_generator_of_the_device_draws_for_several_pictures(single):
    settings = hard(strategy="blend", num_images=2)
    del settings["seed"]
    drawn = pixels(single.edit(**settings, generator=torch.Generator(DEVICE).manual_seed(5)))
    assert np.abs(drawn[0] - drawn[1]).max() > 0


def test_a_generator_of_the_device_draws_for_a_masked_control(single):
    _, settings = EDITS["canny, masked"]
    settings = {key: value for key, value in settings.items() if key != "seed"}
    generator = torch.Generator(DEVICE).manual_seed(5)
    assert len(single.edit(**settings, generator=generator).images) == 1


@pytest.mark.parametrize("kind", ["np", "pt", "latent"])
def test_every_form_of_result_comes(single, kind):
    assert len(single.edit(**hard(output_type=kind)).images) == 1


def test_previews_are_pictures(single):
    seen = []
    single.edit(**hard(callback=lambda shot: seen.append(np.asarray(shot.preview()))))
    assert len(seen) == hard()["num_inference_steps"]
    assert all(each.std() > 0 for each in seen)


@pytest.mark.parametrize("how", ["change", "words", "click"])
def test_maps_are_the_cpus(pocket, single, how):
    scene = sample_edits()[0]
    ways: dict[str, dict[str, Any]] = {
        "change": {"prompt": scene.prompt, "was": "a green meadow", "seed": 1},
        "words": {"prompt": scene.prompt, "words": (scene.prompt,), "seed": 1},
        "click": {"inside": [(64, 64)]},
    }
    wanted = ways[how]
    one, other = (
        each.map_from(how, image=scene.image, refine=False, **wanted) for each in (pocket, single)
    )
    assert np.abs(one - other).mean() < 0.01


def test_a_comparison_has_the_cpus_pictures(pocket, single):
    settings = hard(strategies=["blend", "inpaint9", "think"])
    one, other = (each.compare(**settings).results for each in (pocket, single))
    for name in one:
        assert apart(one[name], other[name]).mean() < 0.05, name


@pytest.mark.parametrize("there", ["single", "half"])
def test_stages_go_over_to_a_model_beside_it(single, pocket, flows, there):
    """Through pixels: in float32 and from float32 to half precision."""
    settings = hard(strategy="staged", stages="blend,differential", models=",flow")
    single.beside("flow", flows[there])
    pocket.beside("flow", flows["cpu"])
    try:
        one, other = pocket.edit(**settings), single.edit(**settings)
    finally:
        single.backbone.others.clear()
        pocket.backbone.others.clear()
    assert apart(one, other).mean() < 0.5


def test_diffusers_own_pipeline_makes_the_same(single):
    """From the same modules on the same device: the law of ``compat``."""
    from diffusers import StableDiffusionXLInpaintPipeline

    settings = hard(strategy="blend", compat="diffusers", output_type="np", guidance_scale=5.0)
    pipe: Any = StableDiffusionXLInpaintPipeline(**single.pipe.components)
    pipe.set_progress_bar_config(disable=True)
    want = pipe(
        prompt=settings["prompt"],
        image=settings["image"],
        mask_image=settings["mask"].astype(np.float32),
        strength=1.0,
        guidance_scale=5.0,
        num_inference_steps=settings["num_inference_steps"],
        generator=torch.Generator().manual_seed(settings["seed"]),
        output_type="np",
        height=128,
        width=128,
    ).images
    assert np.abs(np.asarray(single.edit(**settings).images) - want).max() < 1e-4


@cuda_only
def test_a_device_that_is_not_there_is_one_line():
    from engine import InpaintEngine, InputError

    with pytest.raises(InputError, match="cuda:7") as caught:
        InpaintEngine.from_pretrained(device="cuda:7")
    assert len(str(caught.value).splitlines()) == 1


@cuda_only
def test_the_best_device_is_taken_by_itself():
    from engine import InpaintEngine

    assert InpaintEngine.from_pretrained().backbone.device.type == "cuda"


@cuda_only
def test_a_device_may_have_a_number():
    from engine import InpaintEngine

    assert CUDA
    engine = InpaintEngine.from_pretrained(device="cuda:0")
    assert len(engine.edit(**hard(controls="canny")).images) == 1

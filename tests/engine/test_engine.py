"""InpaintEngine: what goes in, what comes out, and what is refused before any model work."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from controls import Control, check_controls
from engine import CancelledError, InpaintEngine, InputError, ModelError, UnknownNameError
from engine.denoise.strategy import Strategy
from engine.models.formats.folders import load_pipeline
from strategies import LatentBlend, get_strategy
from tests.kit import tiny


def request(**changes):
    return {
        "image": tiny.picture(),
        "mask": tiny.box_mask(),
        "prompt": "a red house",
        "num_inference_steps": 2,
        "seed": 1,
        **changes,
    }


class TestPictures:
    @pytest.mark.parametrize("size", [(451, 300), (65, 63), (40, 17), (64, 64)])
    def test_any_size_comes_back_with_its_unmasked_pixels(self, engine, size):
        width, height = size
        rng = np.random.default_rng(1)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), bool)
        mask[height // 3 :, : width // 2] = True  # it touches the border
        result = engine.edit(**request(image=Image.fromarray(pixels), mask=mask))
        got = np.asarray(result.images[0])
        assert got.shape == pixels.shape
        assert np.array_equal(got[~mask], pixels[~mask])
        assert not np.array_equal(got[mask], pixels[mask])
        assert result.settings["size"] == [width, height]

    def test_pictures_maps_and_paths_of_every_kind_give_the_same_result(self, engine, tmp_path):
        pixels = np.asarray(tiny.picture())
        mask = np.asarray(tiny.box_mask())
        tiny.picture().save(tmp_path / "a.png")
        tiny.box_mask().save(tmp_path / "m.png")
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
        results = [
            engine.edit(**request(image=image, mask=region)).images[0]
            for image, region in (
                (tiny.picture(), tiny.box_mask()),
                (pixels, mask),
                (pixels / np.float32(255), mask > 0),
                (tensor, torch.from_numpy(mask > 0).float()),
                (tensor[None], torch.from_numpy(mask > 0).float()[None, None]),
                (str(tmp_path / "a.png"), tmp_path / "m.png"),
            )
        ]
        for result in results[1:]:
            assert np.array_equal(np.asarray(results[0]), np.asarray(result))

    def test_alpha_is_kept_outside_and_grows_inside(self, engine):
        image = tiny.picture().convert("RGBA")
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        result = engine.edit(**request(image=image)).images[0]
        assert result.mode == "RGBA"
        got, before = np.asarray(result)[..., 3], np.asarray(image)[..., 3]
        keep = np.asarray(tiny.box_mask()) == 0
        assert np.array_equal(got[keep], before[keep])
        assert (got >= before).all()

    def test_a_batch_of_pictures(self, engine):
        batch = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        result = engine.edit(**request(image=batch, num_images=2, output_type="np"))
        assert result.images.shape == (4, 64, 64, 3)
        assert result.seeds == [1, 2, 3, 4]
        keep = np.asarray(tiny.box_mask()) == 0
        for i in range(4):
            want = (batch[i // 2] * 255).round().numpy().transpose(1, 2, 0) / np.float32(255)
            assert np.array_equal(result.images[i][keep], want[keep].astype(np.float32))

    def test_pictures_of_a_batch_under_one_mask_are_what_they_are_alone(self, engine):
        """How an edit is laid over a picture depends on that picture."""
        pictures = [tiny.picture(64, 0), Image.new("RGB", (64, 64), "olive")]
        both = engine.edit(**request(image=pictures, seed=1)).images
        for picture, seed, got in zip(pictures, (1, 2), both, strict=True):
            alone = engine.edit(**request(image=picture, seed=seed)).images[0]
            assert np.array_equal(np.asarray(got), np.asarray(alone))

    def test_a_map_for_each_picture(self, engine):
        batch = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        maps = torch.zeros(2, 1, 64, 64)
        maps[0, :, :32] = 1
        maps[1, :, 32:] = 1
        arguments = request(image=batch, strength_map=maps, output_type="np")
        del arguments["mask"]
        changed = np.abs(engine.edit(**arguments).images - batch.permute(0, 2, 3, 1).numpy()).max(
            axis=-1
        )
        assert changed[0, :30].mean() > 0.01 > changed[0, 32:].max()
        assert changed[1, 34:].mean() > 0.01 > changed[1, :32].max()

    def test_latents_in_latents_out(self, engine):
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        result = engine.edit(**request(image=latents, output_type="latent"))
        keep = np.asarray(tiny.box_mask()).reshape(8, 8, 8, 8).max(axis=(1, 3)) == 0
        kept = torch.from_numpy(keep)
        assert torch.equal(result.latents[:, :, kept], latents[:, :, kept])
        picture = engine.edit(**request(image=latents)).images[0]
        assert picture.size == (64, 64)
        with pytest.raises(InputError, match="needs pixels"):
            engine.edit(**request(image=latents, strategy="inpaint9"))

    def test_invert_flips_the_map(self, engine):
        mask = np.asarray(tiny.box_mask())
        first = engine.edit(**request(mask=mask)).images[0]
        second = engine.edit(**request(mask=255 - mask, invert=True)).images[0]
        assert np.array_equal(np.asarray(first), np.asarray(second))


class TestSettings:
    def test_everything_is_reported(self, engine):
        result = engine.edit(
            **request(strategy="differential", strength_mode="absolute", scheduler="ddim")
        )
        settings = result.settings
        assert json.loads(json.dumps(settings)) == settings
        assert settings["options"] == {"strength_mode": "absolute", "dither": False}
        assert settings["scheduler"] == "ddim"
        assert settings["seeds"] == [1]
        assert settings["prompt"] == "a red house"
        assert result.model_calls == 2
        assert set(result.timings) == {"text", "encode", "denoise", "decode", "paste", "total"}
        assert result.timings["total"] >= result.timings["denoise"] > 0

    def test_a_drawn_seed_repeats_the_edit(self, engine):
        first = engine.edit(**request(seed=None))
        again = engine.edit(**request(seed=first.seeds[0]))
        assert np.array_equal(np.asarray(first.images[0]), np.asarray(again.images[0]))

    def test_generators(self, engine):
        one = engine.edit(**request(seed=None, generator=torch.Generator().manual_seed(1)))
        assert one.seeds == [None]
        want = engine.edit(**request(seed=1))
        assert torch.equal(one.latents, want.latents)
        generator = torch.Generator().manual_seed(1)
        several = engine.edit(**request(seed=None, generator=generator, num_images=2))
        assert None not in several.seeds
        with pytest.raises(InputError, match="1 generators for 2 pictures"):
            engine.edit(**request(seed=None, generator=[generator], num_images=2))

    def test_a_scheduler_object_is_copied(self, engine):
        scheduler = DDIMScheduler.from_config(engine.pipe.scheduler.config, clip_sample=False)
        scheduler.set_timesteps(7)
        first = engine.edit(**request(scheduler=scheduler))
        assert scheduler.num_inference_steps == 7
        assert torch.equal(first.latents, engine.edit(**request(scheduler="ddim")).latents)

    def test_prompt_and_negative_prompt_matter(self, engine):
        first = engine.edit(**request()).latents
        assert not torch.equal(first, engine.edit(**request(prompt="a boat")).latents)
        assert not torch.equal(first, engine.edit(**request(negative_prompt="fog")).latents)

    def test_progress_is_drawn_on_stderr_on_request(self, engine, capsys):
        engine.edit(**request(progress=True))
        assert "denoising" in capsys.readouterr().err
        engine.edit(**request())
        assert capsys.readouterr().err == ""


class TestCompare:
    def test_strategies_share_picture_text_and_calls(self, engine, monkeypatch):
        encodes = []
        encode = engine.backbone.encode

        def counted(*args, **kwargs):
            encodes.append(1)
            return encode(*args, **kwargs)

        monkeypatch.setattr(engine.backbone, "encode", counted)
        comparison = engine.compare(
            **request(), strategies=["blend", "differential", "inpaint9"], strength_mode="absolute"
        )
        assert list(comparison.results) == ["blend", "differential", "inpaint9"]
        # The picture, the prefilled one, and the masked one of the 9-channel network.
        assert len(encodes) == 3
        assert comparison.results["differential"].settings["options"]["strength_mode"] == "absolute"
        alone = engine.edit(**request(strategy="blend"))
        shared = comparison.results["blend"]
        # Rounding in shared matrix products, then 8-bit pixels.
        difference = np.asarray(alone.images[0]).astype(int) - np.asarray(shared.images[0])
        assert np.abs(difference).max() <= 1

    def test_grid_and_table(self, engine):
        comparison = engine.compare(**request(num_images=2), strategies=["blend", "differential"])
        grid = comparison.grid()
        assert grid.width > 4 * 64
        assert grid.height > 2 * 64
        assert "differential" in comparison.table()

    def test_all_that_run_by_default(self, engine):
        assert set(engine.compare(**request()).results) == set(engine.strategies())

    def test_what_it_refuses(self, engine):
        with pytest.raises(InputError, match="at least one name"):
            engine.compare(**request(), strategies=[])
        with pytest.raises(InputError, match="named twice"):
            engine.compare(**request(), strategies=["blend", "blend"])
        with pytest.raises(InputError, match="no compared strategy has the option 'nonsense'"):
            engine.compare(**request(), strategies=["blend"], nonsense=1)
        with pytest.raises(UnknownNameError):
            engine.compare(**request(), strategies=["blend", "nonsense"])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no mask": ({"mask": None}, "one of them is needed"),
    "mask and map": ({"strength_map": np.ones((64, 64))}, "not both"),
    "empty mask": ({"mask": np.zeros((64, 64), np.uint8)}, "empty|nothing to repaint"),
    "full mask": ({"mask": np.full((64, 64), 255, np.uint8)}, "strength_map"),
    "mask of another shape": ({"mask": np.eye(64, 30) > 0}, "30.*64"),
    "NaN in the map": ({"mask": None, "strength_map": np.full((64, 64), np.nan)}, "NaN"),
    "map out of range": ({"mask": None, "strength_map": np.full((64, 64), 1.5)}, "0 to 1"),
    "no steps": ({"num_inference_steps": 0}, "num_inference_steps must be from 1"),
    "half a step": ({"num_inference_steps": 2.5}, "whole number"),
    "negative guidance": ({"guidance_scale": -1}, "guidance_scale must be at least 0"),
    "NaN guidance": ({"guidance_scale": float("nan")}, "finite"),
    "strength 0": ({"strength": 0.0}, "above 0"),
    "strength 2": ({"strength": 2.0}, "from 0 to 1"),
    "rescale 2": ({"guidance_rescale": 2}, "from 0 to 1"),
    "no images": ({"num_images": 0}, "num_images"),
    "negative seed": ({"seed": -2}, "seed"),
    "seed and generator": ({"generator": torch.Generator()}, "not both"),
    "unknown strategy": ({"strategy": "blendd"}, "Did you mean 'blend'"),
    "unknown scheduler": ({"scheduler": "eular"}, "Did you mean 'euler"),
    "unknown option": ({"nonsense": 1}, "unknown option"),
    "unknown output": ({"output_type": "jpg"}, "output_type"),
    "unknown compat": ({"compat": "comfy"}, "diffusers"),
    "no prompt": ({"prompt": None}, "prompt must be a string"),
    "missing file": ({"image": "missing.png"}, "missing.png"),
    "empty list": ({"image": []}, "empty list"),
    "NaN latents": ({"image": torch.full((1, 4, 8, 8), torch.nan)}, "NaN"),
    "bad callback": ({"callback": 3}, "callable"),
    "eta": ({"eta": 2.0}, "eta"),
    "two sizes": ({"image": [tiny.picture(64), tiny.picture(72)]}, "one size"),
    "a list of numbers": ({"mask": [[0, 1], [1, 0]]}, "numbers are given as an array"),
    "a box": ({"mask": (8, 8, 16, 16)}, "numbers are given as an array"),
    "no name": ({"image": ""}, "'' is no file's name"),
    "no text": ({"prompt": "a tent\udcff"}, "prompt is no text in UTF-8"),
    "option by number": ({"options": {1: 1}}, "named by texts, not 1"),
    "two starts": ({"denoising_start": 0.5, "strength": 0.3}, "strength.s place: give one"),
    "a fraction": ({"guidance_scale": Fraction(5)}, "finite number, not Fraction"),
    "scales": ({"controls": "canny:0.2,0.5"}, "several scales"),
    "three maps": ({"mask": [tiny.box_mask()] * 3}, "3 maps for 1 pictures"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_any_model_work(engine, case, monkeypatch):
    changes, message = BAD[case]

    def never(*_args, **_kwargs):
        raise AssertionError("the model was used")

    for name in ("encode", "decode", "encode_prompt"):
        monkeypatch.setattr(engine.backbone, name, never)
    with pytest.raises(InputError, match=message):
        engine.edit(**request(**changes))


def test_numpys_numbers_are_numbers(engine, tmp_path):
    """And a record can hold them."""
    plain = request(seed=3, num_inference_steps=1, feather=2.0, expand=(8, 0, 0, 0), skip=True)
    numpys = request(
        seed=np.uint32(3),
        num_inference_steps=np.int64(1),
        feather=np.float32(2),
        expand=tuple(np.array([8, 0, 0, 0])),
        skip=np.bool_(True),
    )
    one, other = engine.edit(**plain), engine.edit(**numpys)
    assert np.array_equal(np.asarray(one.images[0]), np.asarray(other.images[0]))
    assert one.settings == other.settings
    other.save(tmp_path / "out.png")


def test_a_control_may_be_told_as_on_the_command_line():
    (told,) = check_controls("canny:0.8:0-0.6")
    assert isinstance(told, Control)
    assert (told.model, told.scale, told.end) == ("canny", 0.8, 0.6)


class TestModels:
    def test_from_pipe_changes_nothing(self):
        modules = tiny.modules()
        pipe: Any = StableDiffusionXLPipeline(**modules)
        pipe.to(torch.bfloat16)
        before = {name: id(getattr(pipe, name)) for name in modules}
        scheduler = dict(pipe.scheduler.config)
        weights = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
        InpaintEngine.from_pipe(pipe).edit(**request())
        assert before == {name: id(getattr(pipe, name)) for name in modules}
        assert dict(pipe.scheduler.config) == scheduler
        assert pipe.scheduler.num_inference_steps is None
        assert pipe.unet.dtype == pipe.vae.dtype == torch.bfloat16
        assert all(torch.equal(weights[k], v) for k, v in pipe.unet.state_dict().items())

    def test_stable_diffusion_1_and_image_to_image_pipelines(self):
        for pipe in (
            StableDiffusionPipeline(**tiny.modules(sdxl=False)),
            StableDiffusionXLImg2ImgPipeline(**tiny.modules()),
        ):
            result = InpaintEngine.from_pipe(pipe).edit(**request())
            assert result.images[0].size == (64, 64)

    def test_an_inpainting_checkpoint_alone(self):
        engine = InpaintEngine.from_pipe(StableDiffusionXLPipeline(**tiny.modules(9)))
        assert engine.strategies() == ["inpaint9"]
        engine.edit(**request(strategy="inpaint9"))
        with pytest.raises(InputError, match="text-to-image network"):
            engine.edit(**request(strategy="blend"))

    def test_an_inpainting_unet_of_another_family_is_refused(self):
        pipe = StableDiffusionXLPipeline(**tiny.modules())
        with pytest.raises(ModelError, match="another family"):
            InpaintEngine.from_pipe(pipe, inpaint_unet=tiny.unet(9, sdxl=False))
        with pytest.raises(ModelError, match="4 input channels, not 9"):
            InpaintEngine.from_pipe(pipe, inpaint_unet=tiny.unet(4))

    def test_a_pipeline_without_unet_is_refused(self):
        class Other:
            pass

        pipe = type("P", (), {"config": {}, "unet": None, "components": {}})()
        with pytest.raises(ModelError, match="not supported; supported: SDXL, SD 1"):
            InpaintEngine.from_pipe(pipe)

    def test_what_is_no_pipeline_or_lacks_a_part(self):
        for other in (5, "pipe", torch.nn.Linear(1, 1)):
            with pytest.raises(ModelError, match=f"pipeline is needed, not {type(other).__name__}"):
                InpaintEngine.from_pipe(other)
        for part in ("unet", "vae", "scheduler"):
            pipe: Any = StableDiffusionXLPipeline(**tiny.modules())
            setattr(pipe, part, None)
            with pytest.raises(ModelError, match=f"no {part}"):
                InpaintEngine.from_pipe(pipe)

    def test_a_saved_folder_and_a_separate_inpainting_unet(self, tmp_path):
        pipe: Any = StableDiffusionXLPipeline(**tiny.modules())
        pipe.save_pretrained(tmp_path / "base")
        tiny.unet(9, seed=1).save_pretrained(tmp_path / "unet9")
        engine = InpaintEngine.from_pretrained(
            tmp_path / "base", inpaint_model=tmp_path / "unet9", device="cpu"
        )
        assert engine.strategies() == [n for n in tiny.STRATEGIES if not get_strategy(n).only]
        assert engine.backbone.dtype == torch.float32
        engine.edit(**request(strategy="inpaint9"))

    def test_where_there_is_no_model(self, tmp_path):
        load: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
        with pytest.raises(ModelError, match=r"no model_index.json.*pocket"):
            load_pipeline(tmp_path, **load)
        with pytest.raises(ModelError, match="there is no model at"):
            load_pipeline(tmp_path / "nowhere", **load)
        with pytest.raises(ModelError, match=r"hub cannot be reached.*pocket"):
            load_pipeline("nobody/nothing-like-this", **load)
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(b"not tensors")
        with pytest.raises(ModelError, match="not a readable"):
            load_pipeline(broken, **load)
        other = tmp_path / "model.ckpt"
        other.write_bytes(b"PK\x03\x04")
        with pytest.raises(ModelError, match="is a pickle"):
            load_pipeline(other, **load)
        (tmp_path / "model_index.json").write_text("{not json")
        with pytest.raises(ModelError, match="could not be loaded"):
            load_pipeline(tmp_path, **load)

    def test_devices_and_dtypes_that_cannot_be_used(self):
        with pytest.raises(InputError, match="unknown device 'nonsense'"):
            InpaintEngine.from_pretrained(device="nonsense")
        with pytest.raises(InputError, match="accepted: float16, bfloat16, float32"):
            InpaintEngine.from_pretrained(device="cpu", dtype="int8")

    def test_fp16_vae_that_asks_for_it_runs_in_float32_and_is_restored(self):
        pipe: Any = StableDiffusionXLPipeline(**tiny.modules())
        pipe.vae.register_to_config(force_upcast=True)
        pipe.vae.to(torch.float16)
        codec: Any = InpaintEngine.from_pipe(pipe).backbone.codec
        with codec.precision() as dtype:
            assert dtype == pipe.vae.dtype == torch.float32
        assert pipe.vae.dtype == torch.float16


def test_many_edits_at_once_are_the_single_edits(pocket):
    """Other pictures, prompts, maps, strategies and lengths of run share one loop."""
    rng = np.random.default_rng(0)
    edits = []
    for i, strategy in enumerate(("blend", "differential", "staged")):
        mask = np.zeros((64, 64), bool)
        mask[8 * i : 40, 16:48] = True
        edits.append(
            {
                "image": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
                "mask": mask,
                "prompt": ("a red house", "the sea", "a boat at night")[i],
                "strategy": strategy,
                "num_inference_steps": 2 + i,
                "seed": i,
            }
        )
    together = pocket.edit_many(edits)
    for edit, got in zip(edits, together, strict=True):
        alone = pocket.edit(**edit)
        assert got.settings == alone.settings
        assert got.model_calls == alone.model_calls
        torch.testing.assert_close(got.latents, alone.latents, atol=1e-4, rtol=1e-4)


class Broken(LatentBlend):
    """Fails in its second step."""

    def after_step(self, state, latents, step):
        if step.index == 1:
            raise LookupError("broken")
        return super().after_step(state, latents, step)


class TestWhatFailsFailsAlone:
    def test_one_failing_edit_among_eight_leaves_seven(self, engine):
        """Refused, failing before its first step, in a step, cancelled: five kinds, eight edits."""
        edits = [request(seed=seed) for seed in range(8)]
        for bad, changes, kind in (
            (0, {"num_inference_steps": 0}, InputError),
            (2, {"gorw": 1}, UnknownNameError),
            (3, {"latents": torch.zeros(1, 4, 3, 3), "denoising_start": 0.5}, InputError),
            (5, {"strategy": Strategy("broken", (Broken(),))}, LookupError),
            (7, {"callback": lambda _: False}, CancelledError),
        ):
            given = [*edits]
            given[bad] = {**edits[bad], **changes}
            outcomes = engine.edit_many(given)
            assert list(outcomes.errors) == [bad]
            assert isinstance(outcomes[bad], kind)
            with pytest.raises(kind) as raised:
                outcomes.unwrap()
            assert raised.value.__notes__ == [f"in edit {bad} of 8"]
            for seed in set(range(8)) - {bad}:
                assert outcomes[seed].seeds == [seed]
                same_picture(outcomes[seed], engine.edit(**edits[seed]))

    def test_no_edits(self, engine):
        assert engine.edit_many([]) == []
        assert engine.edit_many([]).unwrap() == []

    def test_a_failing_strategy_is_told_of_on_the_sheet(self, engine):
        broken = Strategy("broken", (Broken(),))
        comparison = engine.compare(**request(), strategies=["blend", broken, "differential"])
        assert list(comparison.results) == ["blend", "differential"]
        assert isinstance(comparison.errors["broken"], LookupError)
        assert "broken failed: broken" in comparison.table()
        whole = engine.compare(**request(), strategies=["blend", "soft-blend", "differential"])
        assert comparison.grid().width == whole.grid().width  # its place is kept
        same_picture(comparison.results["blend"], engine.edit(**request(strategy="blend")))

    def test_a_comparison_of_failures_alone_fails(self, engine):
        with pytest.raises(LookupError):
            engine.compare(**request(), strategies=[Strategy("broken", (Broken(),))])
        with pytest.raises(CancelledError):
            engine.compare(**request(callback=lambda _: False), strategies=["blend"])


def same_picture(one, other):
    torch.testing.assert_close(one.latents, other.latents, atol=1e-4, rtol=1e-4)

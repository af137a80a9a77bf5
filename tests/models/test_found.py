"""What is found out when a model is loaded, and the defaults and sentences that follow from it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    TCDScheduler,
)

from engine import InpaintEngine
from engine.cli import run
from engine.errors import InputError, SoftpaintWarning
from engine.models.families.sdxl import BASE
from engine.models.formats.few_steps import few_steps, scheduler_for
from engine.models.formats.folders import load_pipeline
from engine.models.formats.variants import variant_of
from tests.kit import ldm, tiny, tiny_controls
from tests.kit.tiny import both, difference

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def pipe_with(scheduler: Any) -> Any:
    unet = SimpleNamespace(config=SimpleNamespace(time_cond_proj_dim=None))
    return SimpleNamespace(unet=unet, scheduler=scheduler)


@pytest.fixture(scope="module")
def nine(tmp_path_factory):
    """A tiny whole inpainting model in one file, with CLIP's vocabulary."""
    path = tmp_path_factory.mktemp("nine") / "sdxl-inpaint.safetensors"
    parts = ldm.tiny_parts(BASE, channels=9, words=49408)
    return ldm.write(path, ldm.tensors_of(BASE, parts), torch.float16)


class TestFewSteps:
    @pytest.mark.parametrize(
        ("name", "kind", "steps"),
        [
            ("sdxl_lightning_8step", "Lightning", 8),
            ("juggernautXL_v9Rdphoto2Lightning", "Lightning", 4),
            ("dreamXLTurbo", "Turbo", 4),
            ("dreamshaperXL_v21-turbo_DPMSDE", "Turbo", 4),
            ("Hyper-SDXL-8steps", "Hyper", 8),
            ("realvisxl_hyper", "Hyper", 8),
            ("hyperrealism_xl", "", 0),
            ("bigasp_dmd2_sdxl_4step", "DMD2", 4),
            ("LCM_Dreamshaper_v7", "LCM", 4),
            ("sd_xl_base_1.0", "", 0),
        ],
    )
    def test_by_its_name(self, name, kind, steps):
        found = few_steps(name, pipe_with(EulerDiscreteScheduler(**BETAS)))
        assert (found.kind.name if found else "") == kind
        assert (found.steps if found else 0) == steps

    @pytest.mark.parametrize(
        ("scheduler", "kind"),
        [
            (EulerAncestralDiscreteScheduler(timestep_spacing="trailing"), "Turbo"),
            (EulerAncestralDiscreteScheduler(), ""),
            (EulerDiscreteScheduler(timestep_spacing="trailing"), ""),  # zero terminal SNR's too
            (LCMScheduler(), "LCM"),
            (TCDScheduler(), "TCD"),
        ],
    )
    def test_by_its_scheduler(self, scheduler, kind):
        found = few_steps("model", pipe_with(scheduler))
        assert (found.kind.name if found else "") == kind
        if found is not None:
            assert scheduler_for(found, scheduler) is scheduler

    def test_the_noise_levels_that_they_were_trained_for(self):
        plain = EulerDiscreteScheduler(**BETAS, prediction_type="v_prediction", steps_offset=1)
        levels = {}
        for name in ("x_lightning", "x_dmd2"):
            found = few_steps(name, pipe_with(plain))
            assert found is not None
            scheduler = scheduler_for(found, plain)
            assert scheduler.config.prediction_type == "v_prediction"
            scheduler.set_timesteps(4)
            levels[name] = scheduler.timesteps.tolist()
        assert levels == {"x_lightning": [999, 749, 499, 249], "x_dmd2": [999, 749, 499, 249]}

    def test_defaults_which_an_edit_overrides(self, tmp_path):
        pipe: Any = StableDiffusionXLPipeline(**tiny.modules())
        pipe.save_pretrained(tmp_path / "some_lightning_2step")
        engine = InpaintEngine.from_pretrained(tmp_path / "some_lightning_2step", device="cpu")
        assert "a Lightning checkpoint (by its name): 2 steps and no guidance" in engine.notes[0]
        asked: dict[str, Any] = {"image": tiny.picture(), "mask": tiny.box_mask(), "prompt": "a"}
        settings = engine.edit(**asked).settings
        assert (settings["num_inference_steps"], settings["guidance_scale"]) == (2, 1.0)
        settings = engine.edit(**asked, num_inference_steps=3).settings
        assert (settings["num_inference_steps"], settings["guidance_scale"]) == (3, 1.0)


class TestExactSteps:
    @pytest.mark.parametrize(("steps", "strength"), [(4, 0.5), (4, 0.3), (7, 0.9), (4, 1.0)])
    def test_all_of_them_are_run(self, engine, steps, strength):
        asked = {"num_inference_steps": steps, "strength": strength, "strategy": "blend"}
        result = tiny.edited(engine, **asked, exact_steps=True)
        assert result.model_calls == steps
        assert result.settings["exact_steps"] is True
        assert tiny.edited(engine, **asked).model_calls == max(1, int(steps * strength + 0.5))

    def test_they_cover_what_the_strength_leaves(self, engine):
        """As the last half of twice as many."""
        changes = {"strategy": "blend", "strength": 0.5}
        exact = tiny.edited(engine, **changes, num_inference_steps=4, exact_steps=True)
        twice = tiny.edited(engine, **changes, num_inference_steps=8)
        assert torch.equal(exact.latents, twice.latents)

    def test_diffusers_know_no_such_thing(self, engine):
        with pytest.raises(InputError, match="exact_steps is not part of compat"):
            tiny.edited(engine, compat="diffusers", exact_steps=True)


class TestNineChannelsAlone:
    def test_the_plain_command_runs_and_says_its_strategy(self, nine, files, capsys):
        out = files.folder / "out.png"
        asked = ["edit", files.photo, "-m", files.mask, "-p", "a house", "--steps", "2", "-o", out]
        assert run([str(each) for each in [*asked, "--model", nine, "--device", "cpu"]]) == 0
        told = capsys.readouterr().err
        assert "the strategy is inpaint9" in told
        assert out.is_file()
        assert run(["show", str(out), "--json"]) == 0
        assert '"strategy": "inpaint9"' in capsys.readouterr().out

    def test_a_strategy_for_four_channels_says_what_is_missing(self, nine):
        engine = InpaintEngine.from_pretrained(nine, device="cpu")
        with pytest.raises(InputError, match="text-to-image network"):
            tiny.edited(engine, strategy="differential")
        assert "inpaint9" in engine.strategies()


class TestParity:
    """``blend`` equals diffusers' pipeline on the same weights, loaded from one file."""

    @pytest.fixture(autouse=True)
    def one_thread(self):
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)

    @pytest.mark.parametrize(
        ("marks", "schedulers"),
        [
            (("v_pred", "ztsnr"), ("euler", "ddim")),
            (("edm_mean", "edm_std"), ("dpmpp-2m", "euler")),
        ],
        ids=["velocity", "edm"],
    )
    def test_of_marked_files(self, tmp_path, marks, schedulers):
        tensors = ldm.tensors_of(BASE, ldm.tiny_parts(BASE, words=49408))
        tensors |= {mark: torch.ones(4) for mark in marks}
        path = ldm.write(tmp_path / "model.safetensors", tensors)
        pipe = load_pipeline(path, torch.float32, "cpu").pipe
        # diffusers' inpainting pipeline undoes these statistics and never applies them.
        pipe.vae.register_to_config(latents_mean=None, latents_std=None)
        parts = {name: part for name, part in pipe.components.items() if part is not None}
        for scheduler in schedulers:
            for strength in (1.0, 0.6):
                changes = {"scheduler": scheduler, "strength": strength, "num_inference_steps": 4}
                pair = both(StableDiffusionXLInpaintPipeline, parts, "blend", **changes)
                assert np.isfinite(pair[0]).all()
                assert difference(pair) == 0.0


class TestWhatIsLeftOut:
    def test_a_pipelines_own_controlnet_is_named(self):
        parts = tiny.modules()
        net = tiny_controls.controlnet(parts["unet"])
        pipe: Any = StableDiffusionXLControlNetPipeline(**parts, controlnet=net)
        with pytest.warns(SoftpaintWarning, match="own ControlNet takes no part"):
            InpaintEngine.from_pipe(pipe)


class TestHalfPrecision:
    """Which weights are taken, of real folders and of a hub's cache."""

    def made(self, folder, half: set[str], full: set[str]):
        for name in half:
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "model.fp16.safetensors").touch()
        for name in full:
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "model.safetensors").touch()
        return folder

    def test_folders(self, tmp_path):
        half = {"variant": "fp16"}
        assert variant_of(self.made(tmp_path / "a", {"unet", "vae"}, set()), "*/*") == half
        assert variant_of(self.made(tmp_path / "b", {"unet"}, {"unet", "vae"}), "*/*") == {}
        mixed = self.made(tmp_path / "c", {"unet"}, {"vae"})
        assert variant_of(mixed, "*/*") == half
        assert variant_of(mixed, "vae/*") == {}
        assert variant_of(mixed / "unet", "*") == half

    def test_what_the_hub_has_given_already(self, tmp_path, monkeypatch):
        """A download in full precision is no reason for a second one in half."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        for name, half, full in (("one", {"unet"}, set()), ("two", {"unet"}, {"unet"})):
            base = tmp_path / f"models--some--{name}"
            self.made(base / "snapshots" / "abc", half, full)
            (base / "refs").mkdir()
            (base / "refs" / "main").write_text("abc")
        assert variant_of("some/one", "unet/*") == {"variant": "fp16"}
        assert variant_of("some/two", "unet/*") == {}
        assert variant_of("some/nothing", "unet/*") == {}

    @pytest.mark.parametrize("half", [{"unet", "vae", "text_encoder", "text_encoder_2"}, {"unet"}])
    def test_a_folder_wholly_or_partly_in_half_is_loaded(self, tmp_path, half):
        pipe: Any = StableDiffusionXLPipeline(**tiny.modules())
        pipe.save_pretrained(tmp_path)
        for name in half:
            part = getattr(pipe, name)
            for weights in (tmp_path / name).glob("*.safetensors"):
                weights.unlink()
            part.to(torch.float16).save_pretrained(tmp_path / name, variant="fp16")
        loaded = load_pipeline(tmp_path, torch.float32, "cpu").pipe
        want = pipe.unet.conv_in.weight.float()
        assert torch.equal(loaded.unet.conv_in.weight, want)
        assert loaded.vae.dtype == torch.float32

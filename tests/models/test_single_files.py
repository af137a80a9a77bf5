"""Whole models in one file, of every layout that people have, with no hub and no cache."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

from engine import InpaintEngine
from engine.errors import InputError, ModelError
from engine.models.families.sd import SD1, SD2
from engine.models.families.sdxl import BASE, REFINER
from engine.models.formats.assemble import read_config, tokenizer_for
from engine.models.formats.fitting import text_config, unet_config, vae_config
from engine.models.formats.folders import load_inpaint_unet, load_pipeline
from engine.models.formats.prediction import noise_share, prediction_in
from engine.models.header import read_header
from engine.picture.geometry import Size
from tests.kit import ldm, tiny

LAYOUTS = {layout.name: layout for layout in (SD1, SD2, BASE, REFINER)}
PARAMETERS = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    "refiner": {"unet": 2_259_526_660, "vae": 83_653_863, "text_encoder_2": 694_659_840},
}
"""Of the published models."""
CLIP = 49408
"""Words of its vocabulary."""
MARK = {"v_pred": torch.zeros(0)}
ZTSNR = {**MARK, "ztsnr": torch.zeros(0)}
EDM = {
    "edm_mean": torch.tensor([-1.6574, 1.886, -1.383, 2.5155]).view(1, 4, 1, 1),
    "edm_std": torch.tensor([8.4927, 5.9022, 6.5498, 5.2299]).view(1, 4, 1, 1),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Tiny whole models, a file of each layout in float32, and their tensors."""
    folder = tmp_path_factory.mktemp("files")
    made: dict[str, Any] = {}
    for name, layout in LAYOUTS.items():
        parts = ldm.tiny_parts(layout, words=CLIP if name in {"sdxl", "sd2"} else 512)
        tensors = ldm.tensors_of(layout, parts)
        path = ldm.write(folder / f"{name}.safetensors", tensors)
        made[name] = SimpleNamespace(path=path, parts=parts, tensors=tensors)
    return made


@pytest.fixture(autouse=True)
def no_home(tmp_path, monkeypatch):
    """Neither a cache nor a home with one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def loaded(path, **settings):
    return load_pipeline(path, torch.float32, "cpu", **settings)


def edit(engine, **changes):
    settings = {"image": tiny.picture(), "mask": tiny.box_mask(), "prompt": "a house"}
    return engine.edit(**{**settings, "num_inference_steps": 2, "seed": 1, **changes})


class TestTheShippedConfigs:
    @pytest.mark.parametrize("name", LAYOUTS)
    def test_make_the_published_models(self, name):
        """Modules of the configs, on no device, have the published numbers of parameters; and the
        shapes of their weights in LDM's names tell the same configs.
        """
        layout = LAYOUTS[name]
        with torch.device("meta"):
            parts: dict[str, Any] = {
                "unet": UNet2DConditionModel.from_config(read_config(layout.configs, "unet")),
                "vae": AutoencoderKL.from_config(read_config(layout.configs, "vae")),
            }
            for text in layout.texts:
                config = transformers.CLIPTextConfig(**read_config(layout.configs, text.part))
                parts[text.part] = getattr(transformers, text.kind)(config)
        counted = {k: sum(p.numel() for p in part.parameters()) for k, part in parts.items()}
        assert counted == PARAMETERS[name]
        shapes = {k: tuple(each.shape) for k, each in ldm.tensors_of(layout, parts).items()}
        for part, fit in (("unet", unet_config), ("vae", vae_config)):
            known = read_config(layout.configs, part)
            found = fit(known, shapes)
            assert {key: found[key] for key in known} == known
        for text in layout.texts:
            known = read_config(layout.configs, text.part)
            assert text_config(known, shapes, text) == known

    def test_the_vocabulary_reads_as_clip_does(self):
        words = tokenizer_for(BASE.texts[0])
        assert words("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
        assert words("").input_ids == [49406, 49407]
        assert words.model_max_length == 77
        assert words("Æther, 2 KÄFER'S").input_ids == words("æther, 2 käfer's").input_ids
        padded = {
            number: tokenizer_for(text)("a", padding="max_length", max_length=4).input_ids
            for number, text in enumerate(BASE.texts)
        }
        assert padded == {0: [49406, 320, 49407, 49407], 1: [49406, 320, 49407, 0]}


class TestLayouts:
    @pytest.mark.parametrize("name", LAYOUTS)
    def test_every_weight_arrives_where_it_belongs(self, files, name):
        pipe = loaded(files[name].path).pipe
        assert type(pipe).__name__ == LAYOUTS[name].pipeline
        for part, module in files[name].parts.items():
            want, got = module.state_dict(), getattr(pipe, part).state_dict()
            assert want.keys() == got.keys()
            assert all(torch.equal(want[key], got[key]) for key in want)

    def test_the_same_as_diffusers_own_loader(self, files, tmp_path):
        """diffusers' ``from_single_file`` with a folder of configs, made of the modules' own."""
        file = files["sdxl"]
        for part, module in file.parts.items():
            module.config.save_pretrained(tmp_path / part) if hasattr(
                module.config, "save_pretrained"
            ) else module.save_config(tmp_path / part)
        for text in BASE.texts:
            tokenizer_for(text).save_pretrained(tmp_path / text.tokenizer)
        scheduler = read_config(BASE.configs, "scheduler", "scheduler_config.json")
        (tmp_path / "scheduler").mkdir()
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        index = {
            "_class_name": "StableDiffusionXLPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            **{text.part: ["transformers", text.kind] for text in BASE.texts},
            **{text.tokenizer: ["transformers", "CLIPTokenizer"] for text in BASE.texts},
        }
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        theirs: Any = diffusers.StableDiffusionXLPipeline.from_single_file(
            str(file.path), config=str(tmp_path), local_files_only=True
        )
        ours = loaded(file.path).pipe
        for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
            want, got = getattr(theirs, part).state_dict(), getattr(ours, part).state_dict()
            assert want.keys() == got.keys()
            assert all(torch.equal(want[key], got[key]) for key in want)
        told = [
            each.encode_prompt("a red house", device="cpu", do_classifier_free_guidance=True)
            for each in (theirs, ours)
        ]
        for want, got in zip(*told, strict=True):
            assert torch.allclose(want, got, atol=1e-5)  # mapped weights are not aligned

    def test_an_edit(self, files):
        engine = InpaintEngine.from_pretrained(files["sdxl"].path, device="cpu")
        assert edit(engine).images[0].size == (64, 64)
        assert not engine.notes

    def test_an_old_merge_and_half_precision(self, files, tmp_path):
        old = {
            name.replace("transformer.text_model.", "transformer."): each
            for name, each in files["sd1"].tensors.items()
        }
        extra = {"cond_stage_model.transformer.embeddings.position_ids": torch.arange(77)[None]}
        path = ldm.write(tmp_path / "old.safetensors", old | extra, torch.float16)
        pipe = loaded(path).pipe
        want = files["sd1"].parts["text_encoder"].embeddings.token_embedding.weight
        assert torch.equal(pipe.text_encoder.embeddings.token_embedding.weight, want.half().float())

    def test_moving_averages_beside_the_weights_are_left_alone(self, files, tmp_path):
        tensors = dict(files["sd1"].tensors)
        averaged = {
            "model_ema." + name.removeprefix("model.").replace(".", ""): torch.zeros(1)
            for name in tensors
            if name.startswith("model.")
        }
        path = ldm.write(tmp_path / "ema.safetensors", tensors | averaged)
        want = files["sd1"].parts["unet"].conv_in.weight
        assert torch.equal(loaded(path).pipe.unet.conv_in.weight, want)

    @pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
    def test_eight_bit_weights(self, files, tmp_path, scaled):
        """float8, with ComfyUI's scales and without: what a file holds, times its scale."""
        tensors = {}
        for name, each in files["sdxl"].tensors.items():
            if not (name.startswith("model.") and name.endswith(".weight") and each.ndim > 1):
                tensors[name] = each
                continue
            scale = each.abs().max() / 448 if scaled else torch.ones(())
            tensors[name] = (each / scale).to(torch.float8_e4m3fn)
            if scaled:
                tensors[name.removesuffix(".weight") + ".scale_weight"] = scale
        if scaled:
            tensors["model.diffusion_model.scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
        path = ldm.write(tmp_path / "fp8.safetensors", tensors)
        loading = loaded(path)
        assert "unpacked from 8 bits" in loading.notes[0]
        want = files["sdxl"].parts["unet"].mid_block.resnets[0].conv1.weight
        got = loading.pipe.unet.mid_block.resnets[0].conv1.weight
        # Three bits of mantissa; what is below the smallest number is lost without a scale.
        assert ((want - got).abs() <= want.abs() / 16 + (0 if scaled else 2**-10)).all()


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory):
    """A tiny whole inpainting model in one file."""
    parts = ldm.tiny_parts(BASE, channels=9, seed=5)
    path = tmp_path_factory.mktemp("nine") / "nine.safetensors"
    return SimpleNamespace(path=ldm.write(path, ldm.tensors_of(BASE, parts)), parts=parts)


class TestNineChannels:
    def test_a_file_as_the_inpainting_model_shares_all_but_the_unet(self, files, inpainting):
        engine = InpaintEngine.from_pretrained(
            files["sdxl"].path, inpaint_model=inpainting.path, device="cpu"
        )
        unet = engine.backbone.network("inpaint").module
        assert torch.equal(unet.conv_in.weight, inpainting.parts["unet"].conv_in.weight)
        edit(engine, strategy="inpaint9")

    @pytest.mark.parametrize("form", ["bare", "diffusers"])
    def test_a_file_of_the_unet_alone(self, files, inpainting, tmp_path, form):
        unet = inpainting.parts["unet"]
        tensors = ldm.unet_tensors(unet, prefix="") if form == "bare" else unet.state_dict()
        path = ldm.write(tmp_path / "unet.safetensors", tensors)
        got = load_inpaint_unet(path, files["sdxl"].parts["unet"], torch.float32, "cpu")
        assert all(torch.equal(unet.state_dict()[k], each) for k, each in got.state_dict().items())

    def test_what_is_no_inpainting_model(self, files, tmp_path):
        like = files["sdxl"].parts["unet"]
        with pytest.raises(ModelError, match="4 input channels, not 9"):
            load_inpaint_unet(files["sdxl"].path, like, torch.float32, "cpu")
        path = ldm.write(tmp_path / "vae.safetensors", ldm.vae_tensors(ldm.vae()))
        with pytest.raises(ModelError, match="a VAE, not an inpainting checkpoint"):
            load_inpaint_unet(path, like, torch.float32, "cpu")


class TestGGUF:
    """llama.cpp's files: the UNet in 8 bits, the rest in 16, as ComfyUI-GGUF writes them."""

    @pytest.fixture(scope="class")
    @staticmethod
    def packed(tmp_path_factory):
        gguf = pytest.importorskip("gguf")
        path = tmp_path_factory.mktemp("gguf") / "unet-Q8_0.gguf"
        unet = ldm.sdxl_unet(channels=9, seed=6)
        writer = gguf.GGUFWriter(path, "sdxl")
        kind = gguf.GGMLQuantizationType.Q8_0
        for name, each in ldm.unet_tensors(unet, prefix="").items():
            values = each.numpy()
            if each.ndim == 2 and each.shape[1] % 32 == 0:
                writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, values.astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path, unet

    def test_is_unpacked_to_the_weights_that_it_holds(self, packed):
        path, unet = packed
        got = load_inpaint_unet(path, ldm.sdxl_unet(), torch.float32, "cpu").state_dict()
        for name, want in unet.state_dict().items():
            assert (got[name] - want).abs().max() <= want.abs().max() / 100, name

    def test_without_its_package_says_which(self, packed, monkeypatch):
        monkeypatch.setattr("diffusers.utils.import_utils.is_gguf_available", lambda: False)
        with pytest.raises(ModelError, match="pip install gguf"):
            loaded(packed[0])

    def test_alone_is_no_whole_model(self, packed):
        with pytest.raises(ModelError, match="a UNet alone"):
            loaded(packed[0])


class TestPredictions:
    @pytest.mark.parametrize(
        ("marks", "name", "asked", "kind", "spacing", "told"),
        [
            ({}, "model", None, "epsilon", "leading", ""),
            (MARK, "model", None, "v_prediction", "leading", "velocity (it holds v_pred)"),
            (ZTSNR, "model", None, "v_prediction", "trailing", "zero terminal SNR"),
            ({}, "noobaiXL_vPred10", None, "v_prediction", "leading", "by its name"),
            ({}, "noobaiXL_vPred10", "epsilon", "epsilon", "leading", ""),
            ({}, "model", "v_prediction", "v_prediction", "leading", "as asked for"),
        ],
    )
    def test_marks_names_and_what_is_asked(self, tmp_path, marks, name, asked, kind, spacing, told):
        """From the header alone."""
        path = ldm.write(tmp_path / f"{name}.safetensors", {"x": torch.zeros(1), **marks})
        known = read_config(BASE.configs, "scheduler", "scheduler_config.json")
        found = prediction_in(read_header(path), BASE, known, asked, lambda: math.nan)
        assert found.config["prediction_type"] == kind
        assert found.config["timestep_spacing"] == spacing
        assert found.config.get("rescale_betas_zero_snr", False) == (spacing == "trailing")
        assert told in found.note
        assert bool(told) == bool(found.note)

    def test_a_file_with_marks(self, files, tmp_path):
        tensors = files["sdxl"].tensors
        loading = loaded(ldm.write(tmp_path / "model.safetensors", tensors | ZTSNR))
        config = loading.pipe.scheduler.config
        assert config.rescale_betas_zero_snr
        assert (config.prediction_type, config.timestep_spacing) == ("v_prediction", "trailing")
        assert "velocity (it holds v_pred), zero terminal SNR" in loading.notes[0]

    def test_what_is_no_prediction_type(self, files):
        with pytest.raises(InputError, match="accepted: epsilon, v_prediction"):
            loaded(files["sdxl"].path, prediction_type="v")

    def test_sd2_is_measured(self, files):
        loading = loaded(files["sd2"].path)  # random weights give no noise back
        assert loading.pipe.scheduler.config.prediction_type == "v_prediction"
        assert "velocity (measured" in loading.notes[0]
        assert loading.pipe.unet.config.sample_size == 96
        asked = loaded(files["sd2"].path, prediction_type="epsilon")
        assert asked.pipe.scheduler.config.prediction_type == "epsilon"
        assert asked.pipe.unet.config.sample_size == 64

    def test_the_measure_tells_networks_of_either_kind(self, pocket):
        """The pocket, trained to predict noise; and what knows a clean picture and says its
        velocity: v = alpha noise - sigma x0 with x = alpha x0 + sigma noise.
        """
        unet = pocket.backbone.main.module
        cond, _ = pocket.backbone.encode_prompt("", None, guided=False, size=Size(64, 64))
        added = {key: cond.tensors[key] for key in ("text_embeds", "time_ids")}
        alpha = pocket.pipe.scheduler.alphas_cumprod[999] ** 0.5
        clean = torch.randn(1, 4, 1, 1, generator=torch.Generator().manual_seed(1))

        def noise(sample, time, **told):
            return unet(sample, time, added_cond_kwargs=added, **told)

        def velocity(sample, *_, **__):
            return ((alpha * sample - clean) / (1 - alpha**2) ** 0.5,)

        for predict, low, high in ((noise, 0.9, 1.1), (velocity, 0.0, 0.2)):
            predict.config = unet.config  # type: ignore[attr-defined]
            assert low < noise_share(predict, cond.text) < high

    def test_playground(self, files, tmp_path):
        pipe = loaded(ldm.write(tmp_path / "m.safetensors", files["sdxl"].tensors | EDM)).pipe
        assert type(pipe.scheduler).__name__ == "EDMDPMSolverMultistepScheduler"
        assert pipe.vae.config.scaling_factor == 0.5
        assert pipe.vae.config.latents_std == pytest.approx([8.4927, 5.9022, 6.5498, 5.2299])


class TestVAEs:
    @pytest.fixture
    def without(self, files, tmp_path):
        kept = {k: v for k, v in files["sdxl"].tensors.items() if not k.startswith("first_stage")}
        return ldm.write(tmp_path / "without.safetensors", kept)

    def test_a_file_without_one_says_what_is_missing(self, without):
        with pytest.raises(ModelError, match="holds no VAE; give one with vae"):
            loaded(without)

    @pytest.mark.parametrize("form", ["ldm", "bare", "diffusers", "folder", "whole"])
    def test_every_form_of_another_one(self, files, without, tmp_path, form):
        other = ldm.vae(seed=8, scaling_factor=0.13025)  # SDXL's: a file has none, a folder its own
        place = tmp_path / "vae.safetensors"
        if form == "folder":
            place = tmp_path / "vae"
            other.save_pretrained(place)
        elif form == "whole":
            parts = {**files["sdxl"].parts, "vae": other}
            ldm.write(place, ldm.tensors_of(BASE, parts))
        elif form == "diffusers":
            ldm.write(place, other.state_dict())
        else:
            prefix = "first_stage_model." if form == "ldm" else ""
            ldm.write(place, ldm.vae_tensors(other, prefix))
        vae = loaded(without, vae=place).pipe.vae
        assert torch.equal(vae.decoder.conv_in.weight, other.decoder.conv_in.weight)
        assert vae.config.scaling_factor == 0.13025

    def test_a_tiny_one_works(self, without, tmp_path):
        torch.manual_seed(0)
        widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
        small: Any = AutoencoderTiny(**widths)
        small.save_pretrained(tmp_path / "taesd")
        engine = InpaintEngine.from_pretrained(without, vae=tmp_path / "taesd", device="cpu")
        assert engine.backbone.cell == 8
        before = np.asarray(tiny.picture())
        after = np.asarray(edit(engine).images[0])
        assert np.array_equal(before[:8], after[:8])
        assert not np.array_equal(before, after)

    def test_what_is_no_vae(self, files, without, tmp_path):
        lora = ldm.write(
            tmp_path / "lora.safetensors", {"lora_unet_x.lora_up.weight": torch.ones(1)}
        )
        with pytest.raises(ModelError, match="a LoRA, no VAE"):
            loaded(without, vae=lora)
        files["sdxl"].parts["unet"].save_pretrained(tmp_path / "unet")
        with pytest.raises(ModelError, match="UNet2DConditionModel; accepted VAEs are"):
            loaded(without, vae=tmp_path / "unet")


REFUSED = {
    "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": "Flux",
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "Stable Diffusion 3",
    "encoder_hid_proj.weight": "Kolors",
    "adaln_single.linear.weight": "PixArt",
    "lora_unet_down_blocks_0.lora_up.weight": "a LoRA",
    "unet.down_blocks.0.attn.to_q.lora_A.weight": "a LoRA",
    "decoder.mid.block_1.conv1.weight": "a VAE",
    "first_stage_model.decoder.conv_in.weight": "a VAE",
    "control_model.input_blocks.0.0.weight": "a ControlNet",
    "controlnet_cond_embedding.conv_in.weight": "a ControlNet",
    "image_proj.proj.weight": "an IP-Adapter",
    "emb_params": "an embedding",
    "down_blocks.0.resnets.0.conv1.weight": "a UNet alone",
    "model.diffusion_model.input_blocks.0.0.weight": "a UNet alone",
    "something.else": "of a family that is not supported",
}


class TestRefusals:
    @pytest.mark.parametrize("tensor", REFUSED)
    def test_by_name_from_the_header(self, tmp_path, tensor):
        path = ldm.write(tmp_path / "model.safetensors", {tensor: torch.zeros(1)})
        with pytest.raises(ModelError, match=REFUSED[tensor]) as caught:
            loaded(path)
        assert str(path) in str(caught.value)

    def test_eight_channels(self, files, tmp_path):
        tensors = dict(files["sd1"].tensors)
        tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(32, 8, 3, 3)
        with pytest.raises(ModelError, match="instruct-pix2pix"):
            loaded(ldm.write(tmp_path / "p2p.safetensors", tensors))

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("empty.safetensors", b"", "is empty"),
            ("page.safetensors", b"<!DOCTYPE html><html>login</html>", "is a web page"),
            ("model.ckpt", b"PK\x03\x04archive/data.pkl", "is a pickle"),
            ("model.pt", b"\x80\x02}q\x00", "is a pickle"),
            ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs"),
            ("noise.safetensors", b"\xff" * 64, "not a readable"),
            ("json.safetensors", b'{"weights": 1}', "JSON text"),
        ],
    )
    def test_what_is_no_file_of_weights(self, tmp_path, name, content, told):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=told):
            loaded(tmp_path / name)

    @pytest.mark.parametrize("kept", [4, 60, 0.5, 0.999])
    def test_a_download_that_broke_off(self, files, tmp_path, kept):
        whole = files["sd1"].path.read_bytes()
        path = tmp_path / "cut.safetensors"
        path.write_bytes(whole[: kept if kept > 1 else int(kept * len(whole))])
        with pytest.raises(ModelError, match=r"cut short|not a readable"):
            loaded(path)

    @pytest.mark.parametrize(
        "lost", ["time_embed.0.weight", "output_blocks.3.0.out_layers.3.weight"]
    )
    def test_a_checkpoint_with_holes(self, files, tmp_path, lost):
        tensors = {k: v for k, v in files["sd1"].tensors.items() if not k.endswith(lost)}
        with pytest.raises(ModelError, match="is not whole"):
            loaded(ldm.write(tmp_path / "holes.safetensors", tensors))

    @pytest.mark.parametrize(
        ("kind", "parts"),
        [
            ("PixArtSigmaPipeline", {"transformer": ["diffusers", "PixArtTransformer2DModel"]}),
            (
                "KolorsPipeline",
                {
                    "unet": ["diffusers", "UNet2DConditionModel"],
                    "text_encoder": ["kolors", "ChatGLMModel"],
                },
            ),
        ],
    )
    def test_folders_by_their_index(self, tmp_path, kind, parts):
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind, **parts}))
        with pytest.raises(ModelError, match=f"{kind}.*of a family that is not supported"):
            loaded(tmp_path)

    def test_a_pix2pix_folder_by_its_channels(self, tmp_path):
        index = {
            "_class_name": "StableDiffusionInstructPix2PixPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
        }
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "config.json").write_text(json.dumps({"in_channels": 8}))
        with pytest.raises(ModelError, match=r"Pix2Pix.*8 input channels"):
            loaded(tmp_path)

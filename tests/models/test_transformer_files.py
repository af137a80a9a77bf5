"""Transformers alone in one file, with the rest from a folder: no hub, no cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

from engine import InpaintEngine
from engine.errors import InputError, ModelError
from engine.models import FAMILIES
from engine.models.families.chroma import FILE as CHROMA_FILE
from engine.models.families.flux import FILE as FLUX_FILE
from engine.models.family import transformer_of
from engine.models.formats.devices import resolve_dtype
from engine.models.formats.folders import load_pipeline
from engine.models.formats.kinds import KINDS, UNREGISTERED
from engine.models.header import Header
from tests.kit import ldm, tiny, tiny_flow, tiny_flux, tiny_qwen

MAKERS: dict[str, Any] = {
    "z-image": (diffusers.ZImagePipeline, tiny_qwen.z_image),
    "qwen-image": (diffusers.QwenImagePipeline, tiny_qwen.qwen_image),
    "flux": (diffusers.FluxPipeline, tiny_flux.modules),
    "chroma": (diffusers.ChromaPipeline, tiny_flux.chroma_modules),
    "flux2": (diffusers.Flux2KleinPipeline, tiny_flux.flux2_modules),
    "sd3": (diffusers.StableDiffusion3Pipeline, tiny_flow.sd3_modules),
}


def z_image_original(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In the names of Z-Image's own files, as ComfyUI has them."""
    made: dict[str, torch.Tensor] = {}
    for name, each in tensors.items():
        if name.endswith(".attention.to_q.weight"):
            stem = name.removesuffix("to_q.weight")
            parts = [tensors[f"{stem}to_{kind}.weight"] for kind in "qkv"]
            made[f"{stem}qkv.weight"] = torch.cat(parts)
        elif not name.endswith((".attention.to_k.weight", ".attention.to_v.weight")):
            renamed = name.replace("to_out.0.", "out.")
            renamed = renamed.replace("norm_q", "q_norm").replace("norm_k", "k_norm")
            made[
                renamed.replace("all_final_layer.2-1.", "final_layer.").replace(
                    "all_x_embedder.2-1.", "x_embedder."
                )
            ] = each
    return made


TXT = "double_blocks.0.txt_attn.norm."
FLUX2_NAMES = {
    "x_embedder.": "img_in.",
    "context_embedder.": "txt_in.",
    "time_guidance_embed.timestep_embedder.linear_1.": "time_in.in_layer.",
    "time_guidance_embed.timestep_embedder.linear_2.": "time_in.out_layer.",
    "_modulation.linear.": "_modulation.lin.",
    "modulation_img.linear.": "modulation_img.lin.",
    "modulation_txt.linear.": "modulation_txt.lin.",
    "norm_out.linear.": "final_layer.adaLN_modulation.1.",
    "proj_out.": "final_layer.linear.",
    "single_transformer_blocks.0.attn.to_qkv_mlp_proj.": "single_blocks.0.linear1.",
    "single_transformer_blocks.0.attn.to_out.": "single_blocks.0.linear2.",
    "single_transformer_blocks.0.attn.norm_q.weight": "single_blocks.0.norm.query_norm.scale",
    "single_transformer_blocks.0.attn.norm_k.weight": "single_blocks.0.norm.key_norm.scale",
    "transformer_blocks.0.attn.norm_q.weight": "double_blocks.0.img_attn.norm.query_norm.scale",
    "transformer_blocks.0.attn.norm_k.weight": "double_blocks.0.img_attn.norm.key_norm.scale",
    "transformer_blocks.0.attn.norm_added_q.weight": f"{TXT}query_norm.scale",
    "transformer_blocks.0.attn.norm_added_k.weight": f"{TXT}key_norm.scale",
    "transformer_blocks.0.attn.to_out.0.": "double_blocks.0.img_attn.proj.",
    "transformer_blocks.0.attn.to_add_out.": "double_blocks.0.txt_attn.proj.",
    "transformer_blocks.0.ff.linear_in.": "double_blocks.0.img_mlp.0.",
    "transformer_blocks.0.ff.linear_out.": "double_blocks.0.img_mlp.2.",
    "transformer_blocks.0.ff_context.linear_in.": "double_blocks.0.txt_mlp.0.",
    "transformer_blocks.0.ff_context.linear_out.": "double_blocks.0.txt_mlp.2.",
}


def flux2_original(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In the names of Black Forest Labs' code, of one block of each kind."""
    block = "transformer_blocks.0.attn."
    joined = {
        "double_blocks.0.img_attn.qkv.weight": [f"{block}to_{x}.weight" for x in "qkv"],
        "double_blocks.0.txt_attn.qkv.weight": [f"{block}add_{x}_proj.weight" for x in "qkv"],
    }
    made = {name: torch.cat([tensors[x] for x in parts]) for name, parts in joined.items()}
    for name in tensors.keys() - {each for parts in joined.values() for each in parts}:
        old, new = next((o, n) for o, n in FLUX2_NAMES.items() if o in name)
        each = tensors[name]
        if "adaLN" in new:  # shift before scale
            each = torch.cat(each.chunk(2)[::-1])
        made[name.replace(old, new)] = each
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By family: a pipeline, its folder without the transformer's weights, and these in a file."""
    made: dict[str, Any] = {}
    for name, (kind, modules) in MAKERS.items():
        folder = tmp_path_factory.mktemp(name)
        pipe = kind(**modules())
        pipe.save_pretrained(folder / "whole")
        for weights in (folder / "whole" / "transformer").glob("*.safetensors"):
            weights.unlink()
        tensors = dict(pipe.transformer.state_dict())
        if name == "z-image":
            tensors = z_image_original(tensors)
        if name == "flux2":
            tensors = flux2_original(tensors)
        if name == "qwen-image":
            tensors = {f"model.diffusion_model.{key}": each for key, each in tensors.items()}
        file = ldm.write(folder / "alone.safetensors", tensors)
        made[name] = SimpleNamespace(pipe=pipe, base=folder / "whole", file=file, tensors=tensors)
    return made


@pytest.fixture(autouse=True)
def no_home(tmp_path, monkeypatch):
    """Neither a cache nor a home with one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def loaded(path, **settings):
    return load_pipeline(path, torch.float32, "cpu", **settings)


def known(transformer) -> Any:
    """Its config, as JSON has it: lists where Python had tuples."""
    plain = {key: each for key, each in transformer.config.items() if not key.startswith("_")}
    return json.loads(json.dumps(plain))


@pytest.mark.parametrize("name", MAKERS)
def test_the_file_and_the_folder_are_the_model(models, name):
    own = models[name]
    found = loaded(own.file, base=own.base)
    assert type(found.pipe) is type(own.pipe)
    want, got = own.pipe.transformer.state_dict(), found.pipe.transformer.state_dict()
    assert want.keys() == got.keys()
    assert all(torch.equal(want[key], got[key]) for key in want)
    same, its = (known(pipe.transformer) for pipe in (own.pipe, found.pipe))
    assert same == its
    assert "the rest is" in found.notes[0]


def test_an_edit_with_it_is_recorded_with_where_it_came_from(models):
    own = models["z-image"]
    engine = InpaintEngine.from_pretrained(own.file, base=own.base, device="cpu")
    made = tiny.edited(engine, num_inference_steps=2, output_type="pil", region="full")
    assert made.load == {"model": str(own.file), "base": str(own.base), "device": "cpu"}
    assert made.settings["family"] == "z-image"


def test_half_is_bfloat16_for_flow_models():
    halves = {family.name: family.half for family in FAMILIES}
    assert halves["sdxl"] == "float16"
    assert {halves[name] for name in MAKERS} == {"bfloat16"}
    assert resolve_dtype(None, "cuda", "bfloat16") is torch.bfloat16


def test_a_vae_and_a_text_encoder_from_elsewhere(models, tmp_path):
    own = models["z-image"]
    bare = tmp_path / "bare"
    shutil.copytree(own.base, bare)
    for part in ("vae", "text_encoder"):
        for weights in (bare / part).glob("*.safetensors"):
            weights.unlink()
    with pytest.raises(
        ModelError, match=r"has no weights for its text_encoder; give text_encoder[.]"
    ):
        loaded(own.file, base=bare)
    words = {f"model.{k}": v for k, v in own.pipe.text_encoder.state_dict().items()}
    text = ldm.write(tmp_path / "qwen_3.safetensors", words)
    with pytest.raises(ModelError, match=r"has no weights for its vae; give vae[.]"):
        loaded(own.file, base=bare, text_encoder=text)
    vae = ldm.write(tmp_path / "vae.safetensors", dict(own.pipe.vae.state_dict()))
    found = loaded(own.file, base=bare, vae=vae, text_encoder=text).pipe
    for part in ("vae", "text_encoder"):
        want, got = getattr(own.pipe, part).state_dict(), getattr(found, part).state_dict()
        assert all(torch.equal(want[key], got[key]) for key in want), part


def test_text_encoders_find_their_places(models, tmp_path):
    """Of Flux' two, from files in any order, and from a folder."""
    own = models["flux"]
    t5 = ldm.write(tmp_path / "t5xxl.safetensors", dict(own.pipe.text_encoder_2.state_dict()))
    words = {f"text_model.{k}": v for k, v in own.pipe.text_encoder.state_dict().items()}
    clip = ldm.write(tmp_path / "clip_l.safetensors", words)
    found = loaded(own.file, base=own.base, text_encoder=f"{t5}, {clip}").pipe
    for part in ("text_encoder", "text_encoder_2"):
        want, got = getattr(own.pipe, part).state_dict(), getattr(found, part).state_dict()
        assert all(torch.equal(want[key], got[key]) for key in want), part
    again = loaded(own.file, base=own.base, text_encoder=own.base / "text_encoder_2").pipe
    assert torch.equal(again.text_encoder_2.shared.weight, own.pipe.text_encoder_2.shared.weight)


class TestRefusals:
    def test_another_familys_folder(self, models):
        flux, z_image = models["flux"], models["z-image"]
        with pytest.raises(ModelError, match=r"Flux.1's transformer, and .* of another family"):
            loaded(flux.file, base=z_image.base)

    def test_nothing_else_is_there(self, models, tmp_path):
        own = models["qwen-image"]
        with pytest.raises(
            ModelError, match=r"alone; text encoders and VAE come from base, .*Qwen/"
        ):
            loaded(own.file)
        with pytest.raises(ModelError, match="is a file, not a model's folder"):
            loaded(own.file, base=own.file)

    def test_a_text_encoder_that_is_none_of_its(self, models, tmp_path):
        own = models["z-image"]
        wrong = ldm.write(tmp_path / "t5.safetensors", {"shared.weight": torch.zeros(8, 32)})
        with pytest.raises(ModelError, match=r"none of this model's text encoders; they are text_"):
            loaded(own.file, base=own.base, text_encoder=wrong)
        with pytest.raises(ModelError, match="holds a t5, none"):
            loaded(own.file, base=own.base, text_encoder=models["flux"].base / "text_encoder_2")
        with pytest.raises(InputError, match="text_encoder must be"):
            loaded(own.file, base=own.base, text_encoder=7)

    def test_a_vae_of_another_form(self, models):
        qwen, z_image = models["qwen-image"], models["z-image"]
        with pytest.raises(ModelError, match="latents of 16 channels; this model's have 4"):
            loaded(models["flux"].file, base=models["flux"].base, vae=z_image.base / "vae")
        with pytest.raises(ModelError, match="this model's VAE is a AutoencoderKLQwenImage"):
            loaded(qwen.file, base=qwen.base, vae=models["flux"].base / "vae")

    @pytest.mark.parametrize(
        ("tensor", "told"),
        [
            ("transformer_blocks.0.attn.to_q.wscales", "SVDQuant"),
            ("double_blocks.0.img_attn.qkv.weight_scale_2", "NVFP4"),
            ("double_blocks.0.img_mod.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
            ("double_blocks.0.img_attn.qkv.weight_scale_inv", "scale for each block"),
        ],
    )
    def test_what_cannot_be_unpacked_here(self, models, tmp_path, tensor, told):
        own = models["flux"]
        path = ldm.write(tmp_path / "packed.safetensors", {**own.tensors, tensor: torch.zeros(1)})
        for more in ({}, {"base": own.base}):
            with pytest.raises(ModelError, match=f"{told}.*give it in 16 bits"):
                loaded(path, **more)

    def test_whole_numbers_and_scales_in_a_byte(self, models, tmp_path):
        own = models["flux"]
        name = "transformer_blocks.0.attn.to_q.weight"
        packed = own.tensors[name].to(torch.int8)
        eights = {**own.tensors, name: packed}
        scales = {**own.tensors, f"{name}_scale": torch.zeros(1, dtype=torch.uint8)}
        for tensors, told in ((eights, "whole numbers"), (scales, "for each block")):
            with pytest.raises(ModelError, match=f"{told}.*give it in 16 bits"):
                loaded(ldm.write(tmp_path / "packed.safetensors", tensors), base=own.base)

    def test_a_file_with_holes(self, models, tmp_path):
        own = models["qwen-image"]
        tensors = {k: v for k, v in own.tensors.items() if "blocks.1.attn.to_q.weight" not in k}
        with pytest.raises(ModelError, match="is not whole"):
            loaded(ldm.write(tmp_path / "holes.safetensors", tensors), base=own.base)

    def test_a_control_model_before_its_weights_are_read(self, models, tmp_path):
        own = models["flux"]
        wide = {**own.tensors, "x_embedder.weight": torch.zeros(32, 32)}
        with pytest.raises(ModelError, match="32 input channels"):
            loaded(ldm.write(tmp_path / "depth.safetensors", wide), base=own.base)

    def test_a_base_beside_a_whole_model(self, models):
        with pytest.raises(InputError, match="is no transformer alone: base is for those"):
            loaded(models["flux"].base, base=models["flux"].base)


def test_no_layout_is_refused_by_name():
    """What is served must not be among the kinds that are refused."""
    for family in FAMILIES:
        for file in family.transformers:
            for group in file.marks:
                header: Any = SimpleNamespace(
                    shapes=dict.fromkeys(f"{mark}x" for mark in group),
                    types={},
                    has=lambda *starts, group=group: any(
                        f"{mark}x".startswith(starts) for mark in group
                    ),
                )
                assert not [kind.what for kind in KINDS if kind.marks(header)], file.name
    assert {kind.what for kind in UNREGISTERED}.isdisjoint(kind.what for kind in KINDS)


WIDTH, HEAD = 3072, 128
"""Of the models' own: diffusers' converters know one width."""


def linear(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Of weights and biases of layers by those of their weights."""
    made = {f"{name}.weight": shape for name, shape in shapes.items()}
    return made | {f"{name}.bias": shape[:1] for name, shape in shapes.items()}


def blocks_of_flux() -> dict[str, tuple[int, ...]]:
    """Shapes of what Flux and Chroma have both, a block of each kind."""
    shapes: dict[str, tuple[int, ...]] = {
        "img_in": (WIDTH, 64),
        "txt_in": (WIDTH, 4096),
        "final_layer.linear": (64, WIDTH),
        "single_blocks.0.linear1": (7 * WIDTH, WIDTH),
        "single_blocks.0.linear2": (WIDTH, 5 * WIDTH),
    }
    for block in ("double_blocks.0.img_", "double_blocks.0.txt_"):
        shapes |= {
            f"{block}attn.qkv": (3 * WIDTH, WIDTH),
            f"{block}attn.proj": (WIDTH, WIDTH),
            f"{block}mlp.0": (4 * WIDTH, WIDTH),
            f"{block}mlp.2": (WIDTH, 4 * WIDTH),
        }
    tensors = linear(shapes)
    for norm in ("query_norm", "key_norm"):
        for place in ("double_blocks.0.img_attn", "double_blocks.0.txt_attn", "single_blocks.0"):
            tensors[f"{place}.norm.{norm}.scale"] = (HEAD,)
    return tensors


def only_flux() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        **{f"{part}.in_layer": (WIDTH, 256) for part in ("time_in", "guidance_in")},
        "vector_in.in_layer": (WIDTH, 768),
        **{f"{part}_in.out_layer": (WIDTH, WIDTH) for part in ("time", "guidance", "vector")},
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
        "single_blocks.0.modulation.lin": (3 * WIDTH, WIDTH),
        **{f"double_blocks.0.{each}_mod.lin": (6 * WIDTH, WIDTH) for each in ("img", "txt")},
    }
    return linear(shapes)


def only_chroma() -> dict[str, tuple[int, ...]]:
    inner, part = 5120, "distilled_guidance_layer."
    shapes: dict[str, tuple[int, ...]] = {
        f"{part}in_proj": (inner, 64),
        f"{part}out_proj": (WIDTH, inner),
        **{f"{part}layers.0.{side}_layer": (inner, inner) for side in ("in", "out")},
    }
    return linear(shapes) | {f"{part}norms.0.scale": (inner,)}


@pytest.mark.parametrize(("file", "own"), [(FLUX_FILE, only_flux), (CHROMA_FILE, only_chroma)])
def test_files_in_their_makers_names_at_their_own_width(file, own):
    """Shapes only. Names as Black Forest Labs' code and Chroma's have them."""
    tensors = blocks_of_flux() | own()
    config = file.fit(tensors)
    assert (config["num_layers"], config["num_attention_heads"]) == (1, 24)
    assert config.get("guidance_embeds", True)
    with init_empty_weights():
        want = getattr(diffusers, file.module).from_config(dict(config)).state_dict()
    known: Any = SINGLE_FILE_LOADABLE_CLASSES
    convert = known[file.module]["checkpoint_mapping_fn"]
    empty = {name: torch.empty(shape, device="meta") for name, shape in tensors.items()}
    got = convert(checkpoint=empty, config=config)
    assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in want.items()}
    header = Header(Path("x"), tensors, {}, {})
    assert transformer_of(header) == (FAMILIES.get(file.name), file)

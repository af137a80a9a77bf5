"""Conversions: exact where they claim it, in every form, and one line for what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine import InpaintEngine
from engine.cli import run
from engine.denoise.strategy import Part
from engine.models.families.sdxl import BASE
from engine.tune.convert import add_difference, widen, widened, with_difference
from engine.tune.extract import difference, extract
from engine.tune.networks import open_network
from tests.kit import ldm, tiny


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A tiny SDXL and what was made of it, as folders of their UNets and as single files."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(5)
    base = tiny.unet()
    custom = tiny.unet(seed=0)
    inpaint = tiny.unet(9, seed=1)
    for weight in custom.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    for name, unet in {"base": base, "custom": custom, "inpaint": inpaint}.items():
        unet.save_pretrained(folder / name)
    return folder


class Free(Part):
    """Nothing holds the known region, as the inpainting network's strategy holds none."""


def test_a_widened_network_paints_what_the_narrow_one_does(places, tmp_path):
    widen(str(places / "base"), tmp_path / "wide")
    wide = UNet2DConditionModel.from_pretrained(tmp_path / "wide").eval()
    narrow = UNet2DConditionModel.from_pretrained(places / "base").eval()
    for name, weight in wide.state_dict().items():
        own = narrow.state_dict()[name]
        assert torch.equal(weight[:, :4] if name == "conv_in.weight" else weight, own)
    assert not wide.conv_in.weight[:, 4:].any()
    engine = InpaintEngine.from_pipe(StableDiffusionXLPipeline(**tiny.modules()), wide)
    given = {"mask": tiny.box_mask(), "strength_map": None, "guidance_scale": 5.0}
    got = tiny.edited(engine, **given, strategy="inpaint9").images
    want = tiny.edited(engine, **given, strategy=Free()).images
    # Zeros added in another kernel's order are still zeros; only where this processor's kernels of
    # 4 and of 9 channels sum in different orders may last bits differ.
    sample = torch.randn(2, 9, 8, 8)
    same = torch.equal(narrow.conv_in(sample[:, :4]), wide.conv_in(sample))
    assert np.abs(np.asarray(got) - np.asarray(want)).max() <= (0 if same else 1e-4)


def test_the_difference_of_equals_is_equal_to_the_bit():
    torch.manual_seed(0)
    sizes = torch.logspace(-30, 4, 512)  # where rounding would lose the smaller one

    def drawn(seed: int, columns: int = 4) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return {
            "conv_in.weight": torch.randn(512, columns, 1, 1)
            * sizes[torch.randperm(512), None, None, None],
            "bias": torch.randn(512) * sizes[torch.randperm(512)],
        }

    base, custom, inpaint = drawn(1), drawn(2), drawn(3, 9)
    same = with_difference(inpaint, base, base)
    assert all(torch.equal(same[name], inpaint[name]) for name in inpaint)
    none = with_difference(inpaint, custom, base, scale=0.0)
    assert all(torch.equal(none[name], inpaint[name]) for name in inpaint)
    own = with_difference(widened(base), custom, base)
    assert all(torch.equal(own[name], widened(custom)[name]) for name in own)
    half = {name: each.half() for name, each in custom.items()}
    made = with_difference(inpaint, half, base)
    assert {each.dtype for each in made.values()} == {torch.float16}
    # the sum is made in float32: a difference that float16 cannot hold beside its base is there
    one = torch.ones(1)
    fine = with_difference({"w": one * 2**-12}, {"w": one + 2**-12}, {"w": one})["w"]
    assert fine.item() == 2**-11


def test_extra_columns_are_the_inpainting_models_own(places, tmp_path):
    base, custom, inpaint = (str(places / name) for name in ("base", "custom", "inpaint"))
    add_difference(custom, inpaint, base, tmp_path / "made")
    made = load_file(tmp_path / "made" / "diffusion_pytorch_model.safetensors")
    wide = open_network(inpaint).tensors()
    assert torch.equal(made["conv_in.weight"][:, 4:], wide["conv_in.weight"][:, 4:])
    own, start = open_network(custom).tensors(), open_network(base).tensors()
    name = "conv_out.weight"
    assert torch.equal(made[name], wide[name] + (own[name] - start[name]))
    engine = InpaintEngine.from_pipe(StableDiffusionXLPipeline(**tiny.modules()))
    engine = InpaintEngine.from_pipe(engine.pipe, open_network(tmp_path / "made").unet)
    assert "inpaint" in engine.backbone.networks


def test_a_single_file_keeps_its_form(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = ldm.tensors_of(BASE, ldm.tiny_parts(BASE))
    tensors["model_ema.decay"] = torch.ones(1)
    save_file(
        {name: each.half().contiguous() for name, each in tensors.items()}, path, {"modelspec": "x"}
    )
    widen(path, tmp_path / "wide.safetensors")
    made = load_file(tmp_path / "wide.safetensors")
    with safe_open(str(tmp_path / "wide.safetensors"), framework="pt") as file:
        assert file.metadata() == {"modelspec": "x"}
    first = "model.diffusion_model.input_blocks.0.0.weight"
    assert made.keys() == tensors.keys() - {"model_ema.decay"}
    for name, each in made.items():
        own = each[:, :4] if name == first else each
        assert torch.equal(own, tensors[name].half())
        assert each.dtype == torch.float16
    assert made[first].shape[1] == 9
    assert open_network(tmp_path / "wide.safetensors").channels == 9
    widen(path, tmp_path / "folder")
    assert open_network(tmp_path / "folder").unet.dtype == torch.float16


def test_a_lora_of_the_whole_rank_is_the_difference(places, tmp_path):
    tuned, base = tmp_path / "tuned", places / "base"
    own = UNet2DConditionModel.from_pretrained(base)
    torch.manual_seed(3)
    changed = [each for each in own.modules() if isinstance(each, torch.nn.Linear)][3:9]
    for layer in changed:
        low = torch.randn(layer.weight.shape[0], 2) @ torch.randn(2, layer.weight.shape[1])
        layer.weight.data += 0.05 * low
    own.save_pretrained(tuned)
    found = extract(tuned, base, tmp_path / "two.safetensors", 2, device="cpu")
    assert len(found.pairs) == len(changed)
    assert found.kept == pytest.approx(1, abs=1e-5)
    assert found.left == 0
    parts = tiny.modules()
    engine = InpaintEngine.from_pipe(StableDiffusionXLPipeline(**parts))
    before = tiny.edited(engine).images
    engine.load_lora(tmp_path / "two.safetensors")
    with_lora = tiny.edited(engine).images
    want = tiny.edited(
        InpaintEngine.from_pipe(StableDiffusionXLPipeline(**{**parts, "unet": own.eval()}))
    ).images
    assert np.abs(np.asarray(with_lora) - np.asarray(want)).max() < 1e-3  # ranks in float32
    assert np.abs(np.asarray(with_lora) - np.asarray(before)).max() > 0.05
    one = difference(own, UNet2DConditionModel.from_pretrained(base), 1)
    assert 0.3 < one.kept < 0.999


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("widen {inpaint} -o {out}", "takes 9 channels"),
        ("widen {base} -o {base}", "exists already"),
        ("widen {base} -o {folder}/x.ckpt", "not .ckpt"),
        ("widen {base} -o {folder}/no/x", "does not exist"),
        ("widen {folder} -o {out}", "no diffusers model folder"),
        ("widen {folder}/nowhere -o {out}", "there is no model"),
        ("add-difference {inpaint} --inpaint {inpaint} --base {base} -o {out}", "the custom model"),
        (
            "add-difference {custom} --inpaint {custom} --base {base} -o {out}",
            "the inpainting model",
        ),
        (
            "add-difference {custom} --inpaint {inpaint} --base pocket -o {out}",
            "different families",
        ),
        ("extract-lora {custom} --base {base} -o {out}", ".safetensors"),
        ("extract-lora {base} --base {base} -o {out}.safetensors", "do not differ"),
        ("extract-lora {custom} --base pocket -o {out}.safetensors", "different families"),
    ],
)
def test_bad_use_is_one_line_and_nothing_is_written(places, tmp_path, capsys, arguments, told):
    names = {each: places / each for each in ("base", "custom", "inpaint")}
    line = arguments.format(**names, out=tmp_path / "out", folder=tmp_path)
    assert run(["tune", "convert", *line.split()]) in {1, 2}
    said = capsys.readouterr().err.strip()
    assert told in said
    assert len(said.splitlines()) == 1
    assert "unexpected" not in said
    assert not list(tmp_path.iterdir())


def test_the_commands_say_what_they_made(places, tmp_path, capsys):
    line = f"add-difference {places}/custom --inpaint {places}/inpaint --base {places}/base"
    assert run(["tune", "convert", *line.split(), "-o", str(tmp_path / "a.safetensors")]) == 0
    assert load_file(tmp_path / "a.safetensors")["conv_in.weight"].shape[1] == 9
    line = f"extract-lora {places}/custom --base {places}/base --rank 4 --device cpu"
    assert run(["tune", "convert", *line.split(), "-o", str(tmp_path / "b.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "% of their change" in said
    assert "biases, norms" in said
    assert sorted(Path(tmp_path).iterdir()) == [
        tmp_path / "a.safetensors",
        tmp_path / "b.safetensors",
    ]

"""Colours that are taught: what drifts, what that costs, and the laws of both parts."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from engine import InpaintEngine
from engine.cli import run
from engine.errors import InputError, StoppedError
from engine.tune.colours import border_weights, colour_error
from engine.tune.content import Teaching, teach
from engine.tune.decoder import DecoderLessons, plates_of, teach_decoder
from engine.tune.drift import drifted
from engine.tune.layers import trained_itself
from engine.tune.lessons import lessons_of, masks_each
from engine.tune.photos import Photo
from engine.tune.recipe import COLOUR, Recipe
from tests.kit import tiny

QUICK = Recipe(**{**COLOUR, "steps": 4, "batch": 2, "rate": 1e-2, "rank": 2, "layers": "attention",
                  "size": 64, "sample_every": 0, "save_every": 2})  # fmt: skip
TEACHERS = {"network": teach, "decoder": teach_decoder}


@pytest.fixture(scope="module", autouse=True)
def few_masks():
    """Each is encoded, which is most of what these short trainings take."""
    with mock.patch("engine.tune.lessons.MASKS", 2):
        yield


def photo(seed: int = 0) -> Photo:
    pixels = np.asarray(tiny.picture(64, seed))
    return Photo(f"{seed}.png", pixels, "", np.zeros((64, 64), bool))


def lesson(part: str, folder, name: str = "colour", **changes) -> Teaching:
    output = folder / (f"{name}.safetensors" if part == "network" else name)
    network = "inpaint" if part == "network" else None
    given = {"photos": [photo(0), photo(1)], "output": output, "recipe": QUICK, **changes}
    return Teaching(**given, part=part, network=network)


@pytest.fixture(scope="module", params=TEACHERS)
def part(request):
    return request.param


@pytest.fixture(scope="module")
def written(engine, part, tmp_path_factory):
    """What a part learnt in four steps."""
    return TEACHERS[part](engine, lesson(part, tmp_path_factory.mktemp("taught")))


def learnt(place) -> dict[str, torch.Tensor]:
    return load_file(place / "diffusion_pytorch_model.safetensors" if place.is_dir() else place)


def painted(engine) -> np.ndarray:
    """Pixels in [0, 1], as they come."""
    settings = {"strategy": "inpaint9", "colour": "none", "output_type": "np"}
    return np.asarray(tiny.edited(engine, **settings).images)


def test_the_model_is_what_it_was_to_the_bit(engine, part, tmp_path):
    vae = engine.pipe.vae
    before, weights = painted(engine), {k: v.clone() for k, v in vae.state_dict().items()}
    TEACHERS[part](engine, lesson(part, tmp_path))
    assert np.array_equal(painted(engine), before)
    assert all(torch.equal(each, vae.state_dict()[name]) for name, each in weights.items())
    assert all(each.requires_grad for each in vae.parameters())


def test_a_decoder_that_is_not_yet_taught_is_the_base_to_the_bit(engine):
    before = painted(engine)
    with trained_itself(engine.pipe.vae, "decoder") as fresh:
        assert fresh.parameters
        assert all(name.startswith("decoder.") for name in fresh.parameters)
        assert np.array_equal(painted(engine), before)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(engine, part, written, tmp_path):
    again = learnt(TEACHERS[part](engine, lesson(part, tmp_path)))
    first = learnt(written)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = lesson(part, tmp_path, "other", recipe=replace(QUICK, seed=1))
    third = learnt(TEACHERS[part](engine, other))
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_an_interrupted_training_ends_with_the_same_bits(engine, part, written, tmp_path):
    def interrupt(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    asked = lesson(part, tmp_path)
    with pytest.raises(StoppedError, match="is at step 3 of 4"):
        TEACHERS[part](engine, asked, told=interrupt)
    assert not asked.output.exists()
    seen = []
    TEACHERS[part](engine, asked, told=lambda each: seen.append(each.step))
    assert seen == [4]
    first, second = learnt(written), learnt(asked.output)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_taught_decoder_is_a_vae_that_diffusers_loads(engine, tmp_path):
    during = []

    def look(progress):
        if progress.step == 4:
            during.append(painted(engine))

    place = teach_decoder(engine, lesson("decoder", tmp_path), told=look)
    before, own = painted(engine), engine.pipe.vae
    vae = AutoencoderKL.from_pretrained(place).eval()
    changed = {
        name.split(".")[0]
        for name, each in own.state_dict().items()
        if not torch.equal(each, vae.state_dict()[name])
    }
    assert changed == {"decoder"}, "the encoder's latents mean what they did"
    pipe = tiny.engine().pipe
    pipe.vae = vae
    parts = {**pipe.components, "unet": engine.pipe.unet}
    taught = InpaintEngine.from_pipe(type(pipe)(**parts), inpaint_unet=_inpainting(engine))
    assert np.abs(painted(taught) - during[0]).max() < 1e-5
    assert np.abs(during[0] - before).max() > 1e-2


def _inpainting(engine):
    return engine.backbone.network("inpaint").module


def test_gradients_reach_what_decodes_as_ever(engine):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    codec = engine.backbone.codec
    with torch.no_grad():
        plain = codec.decode(latents)
    with trained_itself(engine.pipe.vae, "decoder") as decoder:
        pixels = codec.learning(latents)
        pixels.square().mean().backward()
        assert all(each.grad is not None for each in decoder.parameters.values())
    assert (pixels.detach() - plain).abs().max() < 1e-4


@pytest.mark.parametrize("most", [0.05, 0.3])
def test_colours_drift_smoothly_and_in_the_hole_alone(most):
    rng = np.random.default_rng(0)
    pixels = np.full((64, 96, 3), (150, 120, 90), np.uint8)
    mask = np.zeros((64, 96), bool)
    mask[16:48, 24:72] = True
    for _ in range(10):
        moved = drifted(pixels, mask, rng, most).astype(int)
        assert np.array_equal(moved[~mask], pixels[~mask])
        inside = moved[16:48, 24:72]
        assert np.abs(np.diff(inside, axis=0)).max() <= 255 * 2 * most / 32 + 2
        assert 0 < np.abs(inside - pixels[0, 0]).max() <= 255 * most + 30 * 3 * most + 2
    assert np.array_equal(drifted(pixels, mask, rng, 0.0), pixels)


def test_faded_colours_cost_more_than_strong_ones_and_a_border_more_than_the_middle():
    wanted = torch.full((1, 3, 16, 16), 0.0)
    wanted[:, 0], wanted[:, 2] = 0.4, -0.4
    hole = torch.zeros(1, 1, 16, 16)
    hole[..., 2:14, 2:14] = 1
    weights = border_weights(hole)
    assert set(weights.unique().tolist()) == {0.0, 0.25, 1.0}
    assert weights[0, 0, 2, 8] == 1
    assert weights[0, 0, 8, 8] == 0.25
    assert colour_error(wanted, wanted, weights) == 0
    faded, strong = (colour_error(wanted * scale, wanted, weights) for scale in (0.5, 1.5))
    assert faded > 1.5 * strong
    middle, border = wanted.clone(), wanted.clone()
    middle[..., 7:9, 7:9] += 0.5
    border[..., 2:4, 7:9] += 0.5
    assert colour_error(border, wanted, weights) > colour_error(middle, wanted, weights)


def test_colours_are_weighed_against_the_rest(engine):
    plates = plates_of([photo()], engine.backbone, QUICK)

    def loss(weight: float) -> float:
        recipe = replace(QUICK, colour=weight)
        with torch.no_grad():
            return float(
                sum(
                    DecoderLessons(engine.backbone, engine.backbone.codec, plates, recipe).losses(0)
                )
            )

    none, once, twice = loss(0), loss(1), loss(2)
    assert once > none
    assert twice - once == pytest.approx(once - none, rel=1e-3)


def test_what_content_learns_has_no_other_colours(engine):
    (plain,) = lessons_of([photo()], engine.backbone, inpaint=True, seed=0)
    (moved,) = lessons_of([photo()], engine.backbone, inpaint=True, seed=0, drift=0.2)
    assert plain.moved is None
    assert plain.holes is not None
    assert moved.holes is not None
    assert moved.moved is not None
    assert torch.equal(plain.holes, moved.holes)
    assert torch.equal(plain.latents, moved.latents)
    whole = (moved.moved - moved.latents).abs().amax(1)
    assert bool((whole.amax((1, 2)) > 0).all())


def test_many_pictures_have_fewer_masks_each():
    with mock.patch("engine.tune.lessons.MASKS", 32):
        assert [masks_each(count) for count in (1, 32, 128, 10_000)] == [32, 32, 8, 4]


def test_other_vaes_are_refused(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.tune.decoder.KIND", "AutoencoderKLQwenImage")
    with pytest.raises(InputError, match="VAE is a AutoencoderKL; AutoencoderKLQwenImage's"):
        teach_decoder(engine, lesson("decoder", tmp_path))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-o a.safetensors", "no pictures are given"),
        ("photo.png", "--output is missing"),
        ("photo.png -o folder", "a LoRA is written to a .safetensors file"),
        ("photo.png -o a.safetensors --part decoder", "a VAE is written to a folder"),
        ("photo.png -o a.safetensors --part encoder", "unknown part 'encoder'"),
        ("photo.png -o a.safetensors --drift 2", "drift must be"),
        ("notes.txt -o a.safetensors", "notes.txt"),
    ],
)
def test_bad_use_is_one_line_before_any_model(files, monkeypatch, capsys, line, told):
    monkeypatch.chdir(files.folder)
    monkeypatch.setattr(InpaintEngine, "from_pretrained", lambda **_: pytest.fail("a model"))
    (files.folder / "notes.txt").write_text("no picture")
    before = sorted(files.folder.rglob("*"))
    assert run(["tune", "colour", *line.split()]) == 2
    said = capsys.readouterr().err.strip()
    assert told in said
    assert len(said.splitlines()) == 1
    assert sorted(files.folder.rglob("*")) == before


def test_the_command_teaches_either_part(files, monkeypatch, capsys):
    monkeypatch.chdir(files.folder)
    rest = "--steps 1 --batch 1 --rank 2 --size 64 -q --sample-every".split()
    with tiny.loaded():
        assert run(["tune", "colour", "photo.png", "-o", "a.safetensors", *rest, "0"]) == 0
        assert (
            run(["tune", "colour", "photo.png", "-o", "vae", "--part", "decoder", *rest, "1"]) == 0
        )
    told = capsys.readouterr().out
    assert "--lora a.safetensors" in told
    assert "--vae vae" in told
    assert (files.folder / "vae.tune" / "samples-000001.png").is_file()

"""Teaching: the laws that it keeps, what it writes, and what it refuses before any work."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from engine import InpaintEngine
from engine.cli import run
from engine.errors import InputError, StoppedError
from engine.models.lora import adapters_of
from engine.solvers.parameterisation import PARAMETERISATIONS
from engine.tune.content import Lessons, Teaching, teach
from engine.tune.filling import filling
from engine.tune.layers import taught
from engine.tune.lessons import AROUND, lessons_of, masks_of
from engine.tune.lora_files import lora_tensors
from engine.tune.masks import mask_around, random_mask
from engine.tune.noising import WEIGHTINGS, Discrete, Straight, noising_of
from engine.tune.photos import Photo, find_photos, read_photos
from engine.tune.recipe import LAYERS, Recipe
from engine.types import Level
from tests.kit import ldm, tiny

QUICK = Recipe(steps=4, batch=2, rate=1e-2, rank=2, sample_every=0, save_every=2, size=64)


def photo(seed: int = 0, **changes) -> Photo:
    pixels = np.asarray(tiny.picture(64, seed))
    made = Photo(f"{seed}.png", pixels, "a boat", np.zeros((64, 64), bool))
    return replace(made, **changes)


def lesson(output, **changes) -> Teaching:
    given = {"photos": [photo(0), photo(1)], "output": output, "recipe": QUICK, **changes}
    return Teaching(**given)


@pytest.fixture(scope="module", autouse=True)
def few_masks():
    """Each is encoded, which is most of what these short trainings take."""
    with mock.patch("engine.tune.lessons.MASKS", 3):
        yield


@pytest.fixture(scope="module")
def written(engine, tmp_path_factory):
    """A LoRA that the inpainting network learnt in four steps."""
    return teach(engine, lesson(tmp_path_factory.mktemp("taught") / "boat.safetensors"))


def painted(engine, strategy: str = "inpaint9") -> np.ndarray:
    return np.asarray(tiny.edited(engine, strategy=strategy).images)


@pytest.mark.parametrize("layers", LAYERS)
def test_a_fresh_lora_is_the_base_to_the_bit(engine, layers):
    module = engine.backbone.network("inpaint").module
    before = painted(engine)
    with taught(module, rank=2, ends=LAYERS[layers], seed=1) as fresh:
        assert fresh.parameters
        assert all("lora" in name for name in fresh.parameters)
        assert np.array_equal(painted(engine), before)
    assert not adapters_of(module)
    assert np.array_equal(painted(engine), before)
    assert all(each.requires_grad for each in module.parameters())


def test_teaching_leaves_the_model_as_it_was(engine, written):
    weights = engine.backbone.network("inpaint").module.state_dict()
    assert not any("lora" in name for name in weights)
    before = painted(engine)
    name = engine.load_lora(written)
    assert np.abs(painted(engine) - before).max() > 1e-3
    engine.unload_lora(name)
    assert np.array_equal(painted(engine), before)


def test_the_file_paints_what_was_taught(engine, tmp_path):
    during = []

    def look(progress):
        if progress.step == 4:
            during.append(painted(engine))

    asked = lesson(tmp_path / "a.safetensors", recipe=replace(QUICK, layers="all"))
    written = teach(engine, asked, told=look)
    before = painted(engine)
    name = engine.load_lora(written)
    after = painted(engine)
    engine.unload_lora(name)
    assert np.abs(after - before).max() > 1e-2
    assert np.abs(after - during[0]).max() < 1e-4


def test_the_same_seed_gives_the_same_bits_and_another_does_not(engine, written, tmp_path):
    again = teach(engine, lesson(tmp_path / "again.safetensors"))
    first, second = load_file(written), load_file(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = lesson(tmp_path / "other.safetensors", recipe=replace(QUICK, seed=1))
    third = load_file(teach(engine, other))
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_an_interrupted_training_ends_with_the_same_bits(engine, written, tmp_path):
    output = tmp_path / "boat.safetensors"

    def interrupt(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(StoppedError, match="is at step 3 of 4"):
        teach(engine, lesson(output), told=interrupt)
    assert not output.exists()
    seen = []
    teach(engine, lesson(output), told=lambda each: seen.append(each.step))
    assert seen == [4]
    first, second = load_file(written), load_file(output)
    assert all(torch.equal(first[name], second[name]) for name in first)
    kept = {each.name for each in (tmp_path / "boat.tune").iterdir()}
    assert kept == {"settings.json", "log.jsonl"}
    log = (tmp_path / "boat.tune" / "log.jsonl").read_text().splitlines()
    assert {"step", "loss", "rate", "seconds"} == set(json.loads(log[-1]))


def test_a_training_of_other_settings_is_not_gone_on_with(engine, tmp_path):
    output = tmp_path / "boat.safetensors"

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(StoppedError):
        teach(engine, lesson(output), told=interrupt)
    with pytest.raises(InputError, match=r"other settings \(rank 2, not 4\)"):
        lesson(output, recipe=replace(QUICK, rank=4)).folder()
    with pytest.raises(InputError, match="other photos"):
        lesson(output, photos=[photo(3)]).folder()


def test_diffusers_loads_it_and_paints_the_same(written):
    parts = tiny.modules()
    ours = InpaintEngine.from_pipe(StableDiffusionXLPipeline(**parts))
    plain = painted(ours, "differential")
    ours.load_lora(written, 0.7)
    want = painted(ours, "differential")
    ours.unload_lora()
    pipe: Any = StableDiffusionXLPipeline(**parts)
    pipe.load_lora_weights(written, adapter_name="boat")
    pipe.set_adapters("boat", 0.7)
    got = painted(InpaintEngine.from_pipe(pipe), "differential")
    pipe.unload_lora_weights()
    assert np.abs(want - plain).max() > 1e-3
    assert np.abs(got - want).max() < 1e-4  # the scale is multiplied in at another place


def test_its_names_are_those_that_other_programs_read(written):
    stems = {name.rsplit(".lora_", 1)[0].removesuffix(".alpha") for name in load_file(written)}
    assert all(each.startswith("lora_unet_") for each in stems)
    # SDXL's in the original layout, as kohya's scripts write and ComfyUI and A1111 read
    assert any(
        each.startswith("lora_unet_output_blocks_0_1_transformer_blocks_0_attn1_to_q")
        for each in stems
    )


def test_every_layer_has_the_name_that_other_programs_give_it(engine):
    """ComfyUI and A1111 know SDXL's by the original layout's names of the weights."""
    module = engine.backbone.network("inpaint").module
    known = {name.removesuffix(".weight") for name in ldm.unet_tensors(module, prefix="")}
    known = {"lora_unet_" + name.replace(".", "_") for name in known}
    with taught(module, rank=2, ends=LAYERS["all"], seed=1) as layers:
        named = lora_tensors(module, layers.pairs())
    stems = {name.removesuffix(".alpha").rsplit(".lora_", 1)[0] for name in named}
    assert stems <= known
    assert len(named) == 3 * len(stems) == 3 * len(layers.parameters) / 2


def test_what_is_unknown_is_hidden_and_not_learnt(engine):
    hole = np.zeros((64, 64), bool)
    hole[16:48, 8:40] = True
    lesson_of = lessons_of([photo(unknown=hole)], engine.backbone, inpaint=True, seed=0)[0]
    unknown = torch.zeros(8, 8, dtype=torch.bool)
    unknown[2:6, 1:5] = True
    assert lesson_of.holes is not None
    assert bool((lesson_of.holes[:, 0, unknown] == 1).all())
    network = engine.backbone.network("inpaint")
    kind = PARAMETERISATIONS.get("epsilon")
    with taught(network.module, rank=2, ends=LAYERS["attention"], seed=1) as layers:
        asked = Lessons(network, layers, kind, Discrete([0.5]), [lesson_of], [], QUICK)

        def loss_with(place) -> float:
            """Of an answer that is wrong at one place."""
            answer = Lessons._asked

            def wrong(self, sample, timesteps, told):
                made = answer(self, sample, timesteps, told)
                made[:, :, *place] += 100
                return made

            with mock.patch.object(Lessons, "_asked", wrong):
                (loss,) = asked.losses(0)
            return float(loss.detach())

        (plain,) = asked.losses(0)
        assert loss_with((3, 3)) == pytest.approx(float(plain.detach()), rel=1e-6)
        assert loss_with((0, 0)) > 2 * float(plain.detach())


def test_what_lies_around_a_hole_counts_less(engine):
    (lesson_of,) = lessons_of([photo()], engine.backbone, inpaint=True, seed=0)
    assert lesson_of.holes is not None
    hole = torch.zeros(1, 1, 8, 8)
    hole[:, :, 2:4, 2:4] = 1
    holes = torch.cat([hole, lesson_of.holes[:1, 1:]], dim=1)
    lesson_of = replace(lesson_of, holes=holes)
    network, kind = engine.backbone.network("inpaint"), PARAMETERISATIONS.get("epsilon")
    recipe = replace(QUICK, surround=0.25)

    def loss_with(layers, place) -> float:
        asked = Lessons(network, layers, kind, Discrete([0.5]), [lesson_of], [], recipe)

        def wrong(_self, sample, *_asked):
            made = sample[:, :4].float() * 0
            made[:, :, *place] += 1000
            return made

        with mock.patch.object(Lessons, "_asked", wrong):
            (loss,) = asked.losses(0)
        return float(loss)

    with taught(network.module, rank=2, ends=LAYERS["attention"], seed=1) as layers:
        inside, around = loss_with(layers, (3, 3)), loss_with(layers, (0, 0))
    assert around / inside == pytest.approx(0.25, rel=0.01)


def test_prior_pictures_keep_what_the_network_answers(engine, tmp_path):
    far, near = (
        teach(
            engine,
            lesson(
                tmp_path / f"{weight}.safetensors",
                recipe=replace(QUICK, steps=4, prior=weight, prior_pictures=1, dropout=0.0),
                prior_prompts=["a red house"],
            ),
        )
        for weight in (0.0, 100.0)
    )
    before = painted(engine)
    moved = []
    for file in (far, near):
        name = engine.load_lora(file)
        moved.append(np.abs(painted(engine) - before).mean())
        engine.unload_lora(name)
    assert moved[1] < moved[0]
    assert len(list((tmp_path / "100.0.tune" / "prior").iterdir())) == 1


def test_half_precision_on_a_cpu_is_refused(tmp_path):
    pipe: Any = StableDiffusionXLPipeline(**tiny.modules())
    pipe.to(torch.float16)
    with pytest.raises(InputError, match="float16 is not trained on the CPU"):
        teach(InpaintEngine.from_pipe(pipe), lesson(tmp_path / "a.safetensors"))
    assert not list(tmp_path.iterdir())


def test_a_sheet_shows_what_is_painted(engine, tmp_path):
    teach(
        engine, lesson(tmp_path / "a.safetensors", recipe=replace(QUICK, steps=1, sample_every=1))
    )
    with Image.open(tmp_path / "a.tune" / "samples-000001.png") as sheet:
        assert min(sheet.size) > 256


@pytest.mark.parametrize(
    "kind",
    [each for each in PARAMETERISATIONS if "edm" not in each.name],
    ids=lambda each: each.name,
)
def test_a_perfect_answer_has_no_loss_whatever_is_predicted(kind):
    """The wanted prediction, turned back, is the clean latents."""
    noising = Straight(3.0, 1000) if kind.name.startswith("flow") else Discrete([0.9, 0.5, 0.1])
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 1, 4, 8, 8, generator=generator, dtype=torch.float64)
    for drawn in noising.draw(6, generator):
        noisy = drawn.level.noise_to(x0, noise)
        wanted = kind.prediction(x0, noisy, drawn.level)
        torch.testing.assert_close(kind.denoised(wanted, noisy, drawn.level), x0)
        assert all(0 < noising.weight(drawn.level, kind, each) < 100 for each in WEIGHTINGS)


def test_min_snr_weighs_noise_and_velocity_as_published():
    level = Level(0.6, 0.8)
    signal = (0.6 / 0.8) ** 2
    table = Discrete([0.36])
    weight = {each.name: table.weight(level, each, "min-snr") for each in PARAMETERISATIONS}
    assert weight["epsilon"] == pytest.approx(min(signal, 5) / signal)
    assert weight["v_prediction"] == pytest.approx(min(signal, 5) / (signal + 1))
    assert weight["sample"] == pytest.approx(min(signal, 5))
    noise = PARAMETERISATIONS.get("epsilon")
    assert table.weight(level, noise, "debiased") == pytest.approx(signal**-0.5)
    assert table.weight(level, noise, "even") == pytest.approx(1)
    assert table.weight(level, noise, "clean") == pytest.approx(1 / signal)  # as of the clean
    assert table.weight(level, PARAMETERISATIONS.get("sample"), "clean") == 1


def test_levels_are_the_schedulers_own():
    from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

    table = noising_of(DDPMScheduler(num_train_timesteps=10))
    generator = torch.Generator().manual_seed(0)
    drawn = table.draw(10, generator)
    assert [each.timestep for each in drawn] == list(range(10))  # one of each tenth
    clean, noise = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0)
    for each in drawn:
        scheduler: Any = DDPMScheduler(num_train_timesteps=10)
        want = scheduler.add_noise(clean, noise, torch.tensor([each.timestep]))
        torch.testing.assert_close(each.level.noise_to(clean, noise), want)
    line = noising_of(FlowMatchEulerDiscreteScheduler(shift=3.0))
    middle = sorted(each.level.sigma for each in line.draw(101, generator))[50]
    assert middle == pytest.approx(0.75, abs=0.02)  # the shift's image of one half
    with pytest.raises(InputError, match="EDM"):
        noising_of(EDMEulerScheduler())


def test_masks_are_of_all_kinds_and_never_empty():
    rng = np.random.default_rng(0)
    shares = [random_mask(rng, 64, 96).mean() for _ in range(300)]
    assert min(shares) > 0
    assert max(shares) == 1
    assert np.mean(np.array(shares) < 0.3) > 0.1
    assert np.mean(np.array(shares) > 0.7) > 0.1


def test_masks_lie_round_a_subject_that_is_told():
    subject = np.zeros((64, 96), bool)
    subject[20:50, 0:30] = True
    rng = np.random.default_rng(0)
    boxes = [mask_around(rng, subject) for _ in range(50)]
    assert all(each[subject].all() for each in boxes)
    assert len({each.sum() for each in boxes}) > 20, "of many sizes"
    assert max(each[:, 60:].sum() for each in boxes) == 0, "none much larger than the subject"
    told = masks_of(photo(unknown=np.zeros((64, 96), bool), subject=subject), rng, 40)
    assert sum(each[subject].all() for each in told) >= AROUND * 40


def test_a_mask_beside_a_photo_tells_where_its_subject_is(tmp_path):
    tiny.picture().save(tmp_path / "a.jpg")
    tiny.box_mask().save(tmp_path / "a.mask.png")
    (place,) = find_photos([tmp_path])
    (read,) = read_photos([place], "a boat")
    marked = np.asarray(tiny.box_mask()) > 127
    fitted = read.fitted(32, 8).subject
    assert read.subject is not None
    assert fitted is not None
    assert np.array_equal(read.subject, marked)
    assert np.array_equal(np.asarray(read.mirrored().subject), marked[:, ::-1])
    assert fitted.mean() == pytest.approx(marked.mean(), abs=0.05)
    assert read.digest != replace(read, subject=None).digest
    black = Image.new("L", tiny.picture().size)
    for wrong, why in ((tiny.box_mask().resize((8, 8)), "8 x 8 px"), (black, "marks nothing")):
        wrong.save(tmp_path / "a.mask.png")
        with pytest.raises(InputError, match=why):
            read_photos([place], "a boat")


def test_photos_fit_the_grid_and_keep_their_shape():
    wide = photo(pixels=np.zeros((300, 451, 3), np.uint8), unknown=np.zeros((300, 451), bool))
    fitted = wide.fitted(128, 16)
    height, width = fitted.pixels.shape[:2]
    assert height % 16 == width % 16 == 0
    assert width / height == pytest.approx(451 / 300, rel=0.1)
    assert height * width == pytest.approx(128**2, rel=0.15)
    hole = np.zeros((300, 451), bool)
    hole[150, 200] = True
    assert replace(wide, unknown=hole).fitted(128, 16).unknown.any(), "a pixel's hole is not lost"


def test_captions_stand_beside_photos(tmp_path):
    for name in ("a", "b"):
        tiny.picture().save(tmp_path / f"{name}.png")
    (tmp_path / "b.txt").write_text("a boat at sea\n")
    places = find_photos([tmp_path])
    assert [each.caption for each in read_photos(places, "a boat")] == ["a boat", "a boat at sea"]
    with pytest.raises(InputError, match=r"a\.png.* has no caption"):
        read_photos(places, None)


def test_a_picture_is_filled_from_others(tmp_path):
    tiny.picture().save(tmp_path / "a.png")
    tiny.box_mask().save(tmp_path / "hole.png")
    first, second = filling(tmp_path / "a.png", tmp_path / "hole.png", [tmp_path / "a.png"], None)
    assert first.unknown.mean() == pytest.approx(np.asarray(tiny.box_mask()).mean() / 255)
    assert not second.unknown.any()
    assert first.caption == second.caption == "a photo of sks"
    with pytest.raises(InputError, match="has no hole"):
        filling(tmp_path / "a.png", None, [tmp_path / "a.png"], None)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-p x -o a.safetensors", "no pictures are given"),
        ("empty -p x -o a.safetensors", "there is no picture in 'empty'"),
        ("gone.png -p x -o a.safetensors", "there is no picture 'gone.png'"),
        ("map.safetensors -p x -o a.safetensors", "map.safetensors"),
        ("photo.png -o a.safetensors", "has no caption: give --prompt"),
        ("mixed -p x -o a.safetensors", "mixed/b.png"),
        ("photo.png -p x", "--output is missing"),
        ("photo.png -p x -o photo.png", "exists already"),
        ("photo.png -p x -o folder", "a LoRA is written to a .safetensors file"),
        ("photo.png -p x -o no/a.safetensors", "does not exist"),
        ("photo.png -p x -o a.safetensors --rank 0", "rank must be"),
        ("photo.png -p x -o a.safetensors --layers some", "unknown layers 'some'"),
        ("photo.png -p x -o a.safetensors --network both", "unknown network 'both'"),
        ("photo.png -p x -o a.safetensors -m mask.png", "give --reference"),
        ("photo.png map.png --reference map.png -o a.safetensors", "fills one picture"),
        ("photo.png --reference map.png -o a.safetensors", "has no hole to fill"),
        ("photo.png -p x -o a.safetensors --optimiser adamw8bit", "pip install bitsandbytes"),
        ("photo.png -p x -o busy.safetensors", "holds no training"),
    ],
)
def test_bad_use_is_one_line_before_any_model(files, monkeypatch, capsys, line, told):
    monkeypatch.chdir(files.folder)
    monkeypatch.setattr(InpaintEngine, "from_pretrained", lambda **_: pytest.fail("a model"))
    for name in ("empty", "busy.tune", "mixed"):
        (files.folder / name).mkdir()
    tiny.picture().save(files.folder / "mixed" / "a.png")
    (files.folder / "mixed" / "b.png").write_bytes(b"\x89PNG, and then nothing")
    (files.folder / "busy.tune" / "notes").write_text("mine")
    (files.folder / "map.safetensors").write_text("{}")
    before = sorted(files.folder.rglob("*"))
    assert run(["tune", "content", *line.split()]) == 2
    said = capsys.readouterr().err.strip()
    assert told in said
    assert len(said.splitlines()) == 1
    assert sorted(files.folder.rglob("*")) == before


def test_the_command_teaches_stops_and_goes_on(files, monkeypatch, capsys):
    monkeypatch.chdir(files.folder)
    line = ["tune", "content", "photo.png", "-p", "boat", "-o", "boat.safetensors", "--steps", "2",
            "--rank", "2", "--size", "64", "--sample-every", "0", "--save-every", "1"]  # fmt: skip
    with tiny.loaded():
        with monkeypatch.context() as patched:
            patched.setattr("engine.tune.content.Lessons.losses", _interrupted)
            assert run(line) == 130
            assert "the same command goes on there" in capsys.readouterr().err
        assert run(line) == 0
        assert "--lora boat.safetensors" in capsys.readouterr().out
        assert run(line) == 2
    assert "exists already" in capsys.readouterr().err


def _interrupted(*_):
    raise KeyboardInterrupt


def test_memory_is_counted_without_any(monkeypatch, capsys):
    from engine.tune import memory

    small = SimpleNamespace(name="tiny", configs=SimpleNamespace(is_dir=lambda: True))
    config = dict(tiny.unet().config)
    monkeypatch.setattr(memory, "layouts", lambda: {"tiny": small})
    monkeypatch.setattr(memory, "read_config", lambda *_: dict(config))
    plain = memory.memory_of("tiny", QUICK)
    thrifty = memory.memory_of("tiny", replace(QUICK, checkpointing=True, optimiser="adamw8bit"))
    peak, network = "activations at their peak", "the network, half precision"
    assert thrifty.parts[peak] < plain.parts[peak]
    assert plain.parts[network] == 2 * sum(each.numel() for each in tiny.unet().parameters())
    trained = plain.parts["the LoRA, float32"]
    assert plain.parts["the optimiser (adamw)"] == 2 * trained
    assert thrifty.parts["the optimiser (adamw8bit)"] == trained / 2
    assert plain.total == sum(plain.parts.values())
    monkeypatch.undo()
    assert run(["tune", "memory", "sd9"]) == 2
    assert "sd1, sd2, sdxl" in capsys.readouterr().err

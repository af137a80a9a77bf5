"""Regions: which share a run, what their prompts do there, and the laws that hold for them."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine import InputError, Region
from engine.cli.app import run
from engine.cli.regions import regions_of
from engine.denoise.guidance import ClassifierFree, Unguided
from engine.denoise.regional import Mixture
from engine.edit.placing import Placed, grouped
from engine.edit.regional import nearest
from engine.models.coupled import WEIGHTS, Coupled, coupled
from engine.picture.pixels import to_pixels
from engine.request.record import EditRecord
from engine.request.regions import read_regions
from engine.request.request import EditRequest
from engine.request.schema import json_schema

STEPS = 3
SIZE = 64
pytestmark = pytest.mark.filterwarnings("ignore::strategies.differential.FewStepsWarning")


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def box(left, top, right, bottom, value=1.0, size=SIZE):
    """A map (H W) of one rectangle."""
    strength_map = np.zeros((size, size), np.float32)
    strength_map[top:bottom, left:right] = value
    return strength_map


LEFT, RIGHT = box(0, 0, 24, 64), box(40, 0, 64, 64)
WIDE = box(16, 0, 64, 64)


def edited(engine, photo, regions, **changes):
    given = {"prompt": "a field", "num_inference_steps": STEPS, "seed": 3, **changes}
    return engine.edit(image=photo, regions=regions, output_type="np", **given)


def pixels(result):
    return result.images[0]


# --- apart ---------------------------------------------------------------------------------------


def test_a_region_alone_is_its_own_edit(engine, photo):
    """One region is an edit with its map and settings; what it leaves open is the edit's."""
    own = edited(engine, photo, [Region(LEFT, "a barn", strength=0.7, seed=9)])
    plain = engine.edit(
        image=photo,
        prompt="a barn",
        strength_map=LEFT,
        strength=0.7,
        seed=9,
        num_inference_steps=STEPS,
        output_type="np",
    )
    assert np.array_equal(pixels(own), pixels(plain))
    assert own.seeds == [3]


def test_regions_apart_have_runs_of_their_own(engine):
    """On a picture much larger than the model each is cut out, and equals its own edit: batched is
    solo up to the bits of shared calls.
    """
    photo = np.random.default_rng(1).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    maps = [box(8, 8, 40, 40, size=400), box(340, 340, 380, 380, size=400)]
    regions = [Region(maps[0], "a barn"), Region(maps[1], "a tent", strategy="blend")]
    joint = edited(engine, photo, regions, native_size=64)
    assert joint.settings["runs"] == [[1], [2]]
    want = photo / np.float32(255)
    for strength_map, region in zip(maps, regions, strict=True):
        own = pixels(edited(engine, photo, [region], native_size=64))
        want = np.where(strength_map[..., None] > 0, own, want)
    assert np.abs(pixels(joint) - want).max() <= 2.01 / 255
    kept = np.maximum(*maps) == 0
    assert np.array_equal(pixels(joint)[kept], photo[kept] / np.float32(255))


def test_the_order_does_not_matter(engine, photo):
    regions = [
        Region(LEFT, "a barn"),
        Region(RIGHT, "a tent", seed=5),
        Region(WIDE * 0.5, "a boat"),
    ]
    several = [
        pixels(edited(engine, photo, list(order))) for order in itertools.permutations(regions)
    ]
    for other in several[1:]:
        assert np.array_equal(several[0], other)


def test_regions_apart_share_a_run_where_the_coupling_is_named(engine, photo):
    """On a picture that the model sees whole, one run in place of two."""
    regions = [Region(LEFT, "a barn"), Region(RIGHT, "a tent")]
    own, shared = (
        edited(engine, photo, regions, coupling=how).settings["runs"]
        for how in ("auto", "attention")
    )
    assert (own, shared) == ([[1], [2]], [[1, 2]])


def test_regions_that_hardly_overlap_have_runs_of_their_own(engine, photo):
    """Each is denoised as in its own run: batched is solo up to the bits of shared calls."""
    regions = [Region(box(0, 8, 26, 30), "a barn"), Region(box(22, 8, 48, 30), "a tent")]
    joint = edited(engine, photo, regions)
    assert joint.settings["runs"] == [[1], [2]]
    for row, region in zip(joint.latents, regions, strict=True):
        own = edited(engine, photo, [region]).latents[0]
        assert torch.allclose(row, own, atol=1e-4)


def test_runs_of_one_frame_are_decoded_at_once(engine, photo, monkeypatch):
    """Each latent position is that of the run whose region is nearest, and the picture shows that
    wherever something was repainted.
    """
    left, right = box(0, 8, 24, 56), box(40, 8, 64, 56)
    regions = [Region(left, "a barn"), Region(right, "a tent")]
    decode, decoded = engine.backbone.decode, []

    def counting(latents, **changes):
        decoded.append(latents)
        return decode(latents, **changes)

    monkeypatch.setattr(engine.backbone, "decode", counting)
    joint = edited(engine, photo, regions, colour="none", feather=0)
    (merged,) = decoded
    half = merged.shape[-1] // 2
    want = torch.cat([joint.latents[:1, ..., :half], joint.latents[1:, ..., half:]], dim=-1)
    assert torch.equal(merged, want)
    shown = to_pixels(decode(merged))[0] / np.float32(255)
    painted = np.maximum(left, right) > 0
    assert np.array_equal(pixels(joint)[painted], shown[painted])
    assert np.array_equal(pixels(joint)[~painted], photo[~painted] / np.float32(255))


def test_where_regions_overlap_the_deeper_one_is_decoded():
    rows = [torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)]
    maps = [box(0, 0, 40, 64), box(32, 0, 64, 64)]
    merged = nearest(rows, maps)
    assert (merged[..., :4] == 0).all()  # 32 to 36 is deeper inside the left one: a tie at 36
    assert (merged[..., 5:] == 1).all()


# --- chosen --------------------------------------------------------------------------------------


class Listening:
    """A judge that keeps what it is asked, and likes what is bright."""

    def __init__(self):
        self.asked = []

    def __call__(self, picture, prompt):
        self.asked.append((picture, prompt))
        return float(picture.mean()) / 255


@pytest.mark.parametrize("second", [RIGHT, box(12, 0, 64, 64)])
def test_candidates_are_judged_region_by_region(engine, photo, second):
    """Apart, each by its prompt in a picture that shows no other's; coupled, all in one picture."""
    judge, regions = Listening(), [Region(LEFT, "a barn"), Region(second, "a tent")]
    result = edited(engine, photo, regions, candidates=3, judge=judge)
    runs = result.parts[0].settings["runs"]
    assert {prompt for _, prompt in judge.asked} == {"a barn", "a tent"}
    maps = {"a barn": LEFT, "a tent": second}
    if len(runs) == 1:
        maps = dict.fromkeys(maps, np.maximum(LEFT, second))
    for picture, prompt in judge.asked:
        kept = maps[prompt] == 0
        assert np.array_equal(picture[kept], photo[kept])
        assert not np.array_equal(picture, photo)


def test_several_strategies_are_tried_for_what_names_none(engine, photo):
    regions = [Region(LEFT, "a barn"), Region(RIGHT, "a tent", strategy="blend")]
    result = edited(engine, photo, regions, strategy="differential,inpaint9", judge="none")
    tried = {(each.regions, each.strategy) for each in result.candidates}
    assert tried == {((1,), "differential"), ((1,), "inpaint9"), ((2,), "blend")}


@pytest.mark.parametrize(
    ("one", "two", "runs"),
    [
        (box(0, 0, 64, 30), box(0, 30, 64, 64), 1),  # halves of a picture
        (box(8, 8, 40, 40), box(20, 8, 56, 40), 1),  # much in common
        (box(8, 8, 30, 30), box(16, 16, 24, 24), 1),  # one in the other
        (box(8, 8, 30, 30), box(30, 8, 56, 30), 2),  # a side in common
        (box(8, 8, 30, 30), box(28, 28, 56, 56), 2),  # a corner
    ],
)
def test_which_regions_are_one_picture(engine, photo, one, two, runs):
    assert len(groups_of(engine, photo, one, two)) == runs


def groups_of(engine, photo, *maps):
    request = EditRequest.read({"image": photo, "regions": [Region(each) for each in maps]})
    placed = [Placed(n, Region(each), each) for n, each in enumerate(maps, start=1)]
    return grouped(placed, request, engine.backbone)


def test_the_tiles_of_a_picture_are_one(engine, photo):
    """No border of theirs may show, though none has more than half of its own with another."""
    tiles = [box(x, y, x + 32, y + 32) for x in (0, 32) for y in (0, 32)]
    assert len(groups_of(engine, photo, *tiles)) == 1


# --- together ------------------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", ["attention", "latents"])
def test_equal_prompts_are_one_edit(engine, photo, coupling):
    """Regions that all say the same are an edit of their union, up to rounding."""
    regions = [Region(box(0, 0, 32, 64), "a barn"), Region(box(24, 0, 64, 64), "a barn")]
    joint = edited(engine, photo, regions, prompt="a barn", coupling=coupling)
    plain = engine.edit(
        image=photo,
        prompt="a barn",
        strength_map=box(0, 0, 64, 64),
        num_inference_steps=STEPS,
        seed=3,
        output_type="np",
    )
    assert joint.settings["runs"] == [[1, 2]]
    assert np.abs(pixels(joint) - pixels(plain)).max() <= 2.01 / 255


@pytest.mark.parametrize("strategy", ["blend", "inpaint9", "think+differential"])
def test_prompts_act_where_they_are(engine, photo, strategy):
    """Another prompt in one of two regions changes the picture more there than the same change in
    the other region does. (By attention too, but a tiny network is too random to show it.)
    """
    maps = box(0, 0, 32, 64), box(32, 0, 64, 64)
    settings = {"coupling": "latents", "strategy": strategy, "guidance_scale": 9.0}
    settings |= {"num_inference_steps": 2, "colour": "none"}

    def made(left, right):
        regions = [Region(maps[0], left), Region(maps[1], right)]
        return pixels(edited(engine, photo, regions, **settings))

    plain = made("a barn", "a barn")
    shares = []
    for words in (("a purple moon", "a barn"), ("a barn", "a purple moon")):
        change = np.abs(made(*words) - plain).mean(axis=2)
        shares.append(change[:, 40:].mean() / change[:, :24].mean())
    assert shares[1] > 1.1 * shares[0]


def test_weights_are_the_maps(engine, photo):
    """Normalised where regions overlap; the edit's own prompt has the rest, and only that."""
    from engine.edit.memory import Memory
    from engine.edit.regional import PreparedRegions

    def weights(**given):
        request = engine.read(
            {
                "image": photo,
                "prompt": "a field",
                "regions": [Region(LEFT, "a barn"), Region(box(16, 0, 48, 64, 0.5), "a tent")],
                **given,
            }
        )
        (part,) = PreparedRegions(engine.backbone, request, Memory()).parts
        (view,) = part.shared.inputs.views
        return part._weights(view, 1.0)[0, :, 0].numpy()

    own, barn, tent = weights()
    cell = engine.backbone.cell
    place = {"left": 0, "both": 20 // cell, "tent": 40 // cell, "none": 60 // cell}
    assert [round(float(own[place[k]]), 3) for k in place] == [0, 0, 0, 1]
    assert [round(float(barn[place[k]]), 3) for k in place] == [1, 0.667, 0, 0]
    assert [round(float(tent[place[k]]), 3) for k in place] == [0, 0.333, 1, 0]
    own, barn, tent = weights(strength_map=np.ones((SIZE, SIZE), np.float32))
    assert [round(float(own[place[k]]), 3) for k in place] == [0, 0, 0.5, 1]
    assert float(tent[place["tent"]]) == pytest.approx(0.5)


def test_a_base_map_is_for_the_rest(engine, photo):
    """With a mask beside the regions all of it is repainted, in one run."""
    joint = edited(engine, photo, [Region(LEFT, "a barn")], mask=box(0, 0, 48, 64))
    assert joint.settings["runs"] == [[0, 1]]
    changed = (pixels(joint) != photo / np.float32(255)).any(axis=2)
    assert changed[:, 32:44].any()
    assert not changed[:, 48:].any()


def test_a_strength_of_a_region_weakens_its_map(engine, photo):
    """In a shared run: what is half as strong is released half way."""
    both = [Region(LEFT, "a barn"), Region(WIDE, "a barn", strength=0.5)]
    joint = edited(engine, photo, both, prompt="a barn", num_inference_steps=4)
    plain = engine.edit(
        image=photo,
        prompt="a barn",
        strength_map=np.maximum(LEFT, 0.5 * WIDE),
        num_inference_steps=4,
        seed=3,
        output_type="np",
    )
    assert np.abs(pixels(joint) - pixels(plain)).max() <= 2.01 / 255


def test_seeds_of_regions(engine, photo):
    """A region's seed is its noise's, in a shared run too: another changes it there most."""
    one, two = (
        pixels(edited(engine, photo, [Region(LEFT, "a barn"), Region(WIDE, "a tent", seed=seed)]))
        for seed in (5, 6)
    )
    change = np.abs(one - two).mean(axis=2)
    assert change[:, 32:].mean() > 2 * change[:, :12].mean()


def test_controls_of_a_region(engine, photo, net):
    """In a shared run a region's control holds where it is, and nowhere else to the bit."""
    from engine import Control

    control = Control(net, image=photo, scale=2.0)
    regions = [Region(LEFT, "a barn", controls=control), Region(box(24, 0, 64, 64), "a tent")]
    without = [Region(LEFT, "a barn"), regions[1]]
    one, two = (
        pixels(edited(engine, photo, each, feather=0, colour="none")) for each in (regions, without)
    )
    change = np.abs(one - two).max(axis=2)
    assert change[:, :20].mean() > 5 * change[:, 40:].mean()


# --- the laws ------------------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", ["attention", "latents"])
def test_skipped_is_full(engine, photo, coupling):
    regions = [Region(LEFT * 0.6, "a barn"), Region(WIDE * 0.5, "a tent")]
    quick, full = (
        edited(engine, photo, regions, coupling=coupling, num_inference_steps=6, skip=skip)
        for skip in (True, False)
    )
    assert np.array_equal(pixels(quick), pixels(full))
    assert quick.model_calls < full.model_calls


def test_a_session_computes_what_a_change_touches(engine):
    """Two runs far apart: a change of one leaves the other's steps as they are."""
    photo = np.random.default_rng(1).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    maps = [box(8, 8, 40, 40, size=400), box(340, 340, 380, 380, size=400)]
    shared = {"image": photo, "num_inference_steps": STEPS, "seed": 3, "native_size": 64}
    session = engine.session(**shared, regions=[Region(m, "a barn") for m in maps])
    first = session.render(output_type="np")
    assert first.settings["runs"] == [[1], [2]]
    changed = [Region(maps[0], "a barn"), Region(maps[1], "a tent")]
    again = session.render(regions=changed, output_type="np")
    assert (again.model_calls, again.reused_calls) == (STEPS, STEPS)
    fresh = engine.edit(**shared, regions=changed, output_type="np")
    # The session's second render has a run of its own where the fresh one shares calls.
    assert np.abs(pixels(again) - pixels(fresh)).max() <= 2.01 / 255


@pytest.mark.parametrize("coupling", ["attention", "latents"])
def test_a_shared_run_retuned_is_fresh(engine, photo, coupling):
    regions = [Region(LEFT, "a barn"), Region(WIDE, "a tent")]
    settings = {"num_inference_steps": 4, "coupling": coupling, "prompt": "", "seed": 3}
    session = engine.session(image=photo, regions=regions, output_type="np", **settings)
    session.render()
    again = session.render(guidance_end=0.6)
    fresh = engine.edit(
        image=photo, regions=regions, output_type="np", **settings, guidance_end=0.6
    )
    assert again.reused_calls == 3
    assert np.array_equal(pixels(again), pixels(fresh))


@pytest.mark.parametrize("choice", [[], ["--candidates", "3"]])
def test_repeated_from_its_record(files, capsys, choice):
    """On the command line, with a region's settings, by its files; a candidate by itself."""
    right = files.folder / "right.png"
    Image.fromarray(np.where(np.arange(72)[None] > 44, 255, 0).repeat(56, 0).astype(np.uint8)).save(
        right
    )
    out, again = files.folder / "out.png", files.folder / "again.png"
    command = ["edit", str(files.photo), "--steps", "2", "--seed", "7", "-q", "-o", str(out)]
    command += choice
    regions = ["--region-edit", f"{files.mask}::a red barn", "--region-edit"]
    assert run([*command, *regions, f"{right}::a boat::strength=0.8"]) == 0
    assert run(["edit", "--from", str(out), "-q", "-o", str(again)]) == 0
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(again)))
    record = EditRecord.read(out)
    settings = [dict(each.settings) for each in record.regions]
    seeds = [each.pop("seed", None) for each in settings]
    assert settings == [{"prompt": "a red barn"}, {"prompt": "a boat", "strength": 0.8}]
    assert all(seed in ({7, 8, 9} if choice else {None}) for seed in seeds)
    told = [{"map": "mask.png", "prompt": "a red barn", "controls": ["canny:0.8"]}]
    listed = files.folder / "regions.json"
    listed.write_text(json.dumps(told))
    read = (regions_of(None, listed) or [])[0]
    assert (read.map, read.controls[0].scale) == (str(files.mask), 0.8)
    right.unlink()
    assert run(["edit", "--from", str(out), "-q", "-o", str(again)]) == 2
    assert "region 2" in capsys.readouterr().err


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regions", "changes", "said"),
    [
        ([], {}, "empty list"),
        ([Region(LEFT)] * 100, {}, "at most 32"),
        ([Region(np.zeros((SIZE, SIZE), np.float32))], {}, "region 1: its map is empty"),
        ([Region(LEFT), Region(np.ones((9, 40)))], {}, "region 2"),
        ([{"map": LEFT, "promt": "x"}], {}, "'promt'"),
        ([{"prompt": "x"}], {}, "no map"),
        ([{"map": LEFT, "strength": 2}], {}, "region 1: strength must be"),
        (["map.png"], {}, "region 1 must be"),
        ([Region(LEFT, strategy="blend"), Region(WIDE)], {}, "differ in strategy"),
        ([Region(LEFT, lora="a")], {}, "no LoRA 'a'; loaded: none"),
        ([Region(LEFT)] * 9, {}, "at most 8"),
        ([Region(LEFT, strategy="blend")], {"strategy": "auto"}, "nothing to be advised"),
        ([Region(LEFT, task="add"), Region(WIDE)], {}, "differ in task"),
        ([{"map": LEFT, "task": "paint"}], {}, "region 1: unknown task 'paint'"),
        ([{"map": LEFT, "strategy": "auto"}], {}, "for all regions"),
        ([Region(LEFT)], {"expand": (8, 0, 0, 0)}, "expand"),
        ([Region(LEFT)], {"generator": torch.Generator()}, "generator"),
    ],
)
def test_bad_regions_are_refused(engine, photo, regions, changes, said):
    with pytest.raises(InputError, match=said) as caught:
        edited(engine, photo, regions, **{"seed": None, **changes})
    assert "\n" not in str(caught.value)


def test_the_command_line_refuses_in_one_line(files, capsys):
    for told, said in (("mask.png", "MAP::PROMPT"), ("nowhere.png::a boat", "nowhere.png")):
        command = [
            "edit",
            str(files.photo),
            "--region-edit",
            told,
            "-o",
            str(files.folder / "o.png"),
        ]
        assert run(command) == 2
        assert said in capsys.readouterr().err.strip()


@pytest.mark.parametrize("lora", [3, "", ":1", ["a:nan"], "a:b"])
def test_what_no_lora_is(lora):
    with pytest.raises(InputError, match=r"NAME\[:WEIGHT\]"):
        read_regions({"map": LEFT, "lora": lora})


def test_schema_and_service_take_regions(files):
    from engine.serve import wire
    from engine.serve.limits import Limits

    schema = json_schema()["properties"]["regions"]
    assert schema["anyOf"][0]["items"]["required"] == ["map"]
    import base64

    told = {"map": base64.b64encode(files.mask.read_bytes()).decode(), "prompt": "a boat"}
    asked = {**told, "task": "add", "lora": "style:0.5"}
    (taken,) = wire.settings({"regions": [asked]}, Limits())["regions"]
    assert (taken["prompt"], taken["map"].data) == ("a boat", files.mask.read_bytes())
    assert (taken["task"], taken["lora"]) == ("add", "style:0.5")
    assert set(taken) <= set(schema["anyOf"][0]["items"]["properties"])
    changes: list[dict[str, Any]] = [{"map": "/etc/passwd"}, {"lora": 3}]
    changes += [{"controls": ["x.pt"]}, {"task": "paint"}]
    for bad in ({**told, **change} for change in changes):
        with pytest.raises(InputError):
            wire.settings({"regions": [bad]}, Limits())


# --- the means -----------------------------------------------------------------------------------


def test_a_mixture_is_the_weighted_sum():
    """``sum_r w_r (u_r + s (c_r - u_r))``, a shared unconditional branch asked once."""
    weights = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    names = ({"cond": "cond.0", "uncond": "uncond.0"}, {"cond": "cond.1", "uncond": "uncond.0"})
    mixture = Mixture(ClassifierFree(3.0), names, weights)
    assert mixture.branches == ("uncond.0", "cond.0", "cond.1")
    values = {"uncond.0": 1.0, "cond.0": 2.0, "cond.1": 5.0}
    said = {name: torch.full((1, 4, 2, 2), value) for name, value in values.items()}
    want = 0.25 * (1 + 3 * 1) + 0.75 * (1 + 3 * 4)
    assert torch.allclose(mixture.combine(said), torch.tensor(want))
    assert mixture == Mixture(ClassifierFree(3.0), names, weights.clone())
    assert mixture != Mixture(Unguided(), names, weights)


def test_an_attention_says_each_prompts_own_where_it_is(engine):
    """At a position where a prompt has all the weight the attention's answer is that prompt's, and
    half way between two it is their mean.
    """
    couple = Coupled(engine.backbone.network("base").unet)
    torch.manual_seed(0)
    hidden, (one, two) = torch.randn(1, 64, 64), torch.randn(2, 1, 77, 64)
    weights = torch.zeros(1, 2, 8, 8)
    weights[:, 0, :4], weights[:, 1, 4:6], weights[:, :, 6:] = 1, 1, 0.5
    changes = couple.changes({"text": one, "regions.0": two, WEIGHTS: weights})
    layer, mixed = next(iter(changes))
    with torch.no_grad():
        said = mixed(hidden, one).unflatten(1, (8, 8))
        first, second = (layer(hidden, text).unflatten(1, (8, 8)) for text in (one, two))
    assert torch.allclose(said[:, :4], first[:, :4], atol=1e-6)
    assert torch.allclose(said[:, 4:6], second[:, 4:6], atol=1e-6)
    assert torch.allclose(said[:, 6:], (first + second)[:, 6:] / 2, atol=1e-6)
    assert not list(couple.changes({"text": one}))


def test_coupled_attention_is_each_prompts_own_where_its_weight_is_one(engine):
    """With one weight 1 everywhere, a call says what it says of that prompt alone."""
    network, backbone = engine.backbone.network("base"), engine.backbone
    from engine.picture.geometry import Size

    size = Size(SIZE, SIZE)
    first, second = (
        backbone.encode_prompt(text, None, guided=False, size=size)[0]
        for text in ("a cat", "a hut")
    )
    side = SIZE // backbone.cell
    latents = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(1, 2, side, side)
    weights[:, 1] = 1
    told = coupled([first, second], weights, torch.tensor([0.0, 1.0]))
    assert WEIGHTS in told.tensors
    step = torch.tensor([500])
    with torch.no_grad():
        joint = network.predict(latents, step, told, {})
        alone = network.predict(latents, step, second, {})
        other = network.predict(latents, step, first, {})
    assert torch.allclose(joint, alone, atol=1e-5)
    assert not torch.allclose(joint, other, atol=1e-3)

"""What steers an edit enters in one way: plug-ins beside ControlNets and IP-Adapters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from controls import Control
from controls.place import Bound, Place
from engine.errors import InputError
from engine.types import Conditioning
from tests.kit import tiny


class Nudge:
    """Residuals: a constant on the middle of the network, from the step of a share of the run."""

    def __init__(self, size: float) -> None:
        self.size = size
        self.seen: list[tuple[Place, int]] = []

    def prepare(self, model, canvas):
        config = model.unet_config
        blocks = len(config.block_out_channels)
        self.skips = 1 + blocks * config.layers_per_block + blocks - 1
        return self

    def describe(self):
        return {"nudge": self.size}

    def cut(self, box, repainted, schedules):
        assert repainted.dtype == torch.bool
        assert repainted.any()
        return self

    def bind(self, place, schedule):
        self.seen.append((place, len(schedule)))
        return Bound(residuals=[self])

    def residuals(self, scaled, timesteps, conditioning, step):
        if not self.size:
            return {}
        middle = torch.full((len(scaled), 1, 1, 1), self.size)
        return {
            "down_block_additional_residuals": (0 * middle,) * self.skips,
            "mid_block_additional_residual": middle,
        }


@pytest.fixture(scope="module")
def engine():
    return tiny.engine(inpaint=False)


def edit(engine, controls, **changes):
    arguments = {"image": tiny.picture(), "mask": tiny.box_mask(), "prompt": "a", "seed": 1}
    arguments |= {"num_inference_steps": 2, "output_type": "latent", "progress": False}
    return engine.edit(**{**arguments, **changes}, controls=controls)


def test_a_plug_ins_residuals_reach_the_network(engine):
    plain, off, on = (edit(engine, each) for each in (None, Nudge(0.0), Nudge(0.5)))
    assert torch.equal(plain.latents, off.latents)
    assert not torch.equal(plain.latents, on.latents)
    assert on.settings["controls"] == [{"nudge": 0.5}]


def test_it_is_told_its_place(engine):
    nudge = Nudge(0.5)
    edit(engine, [nudge], strategy="staged", scales="0.5,1", output_type="pil")
    places = [place for place, _ in nudge.seen]
    assert [tuple(place.size or ()) for place in places] == [(32, 32), (64, 64)]
    assert all(place.guided and place.rows == 1 and place.picture == 0 for place in places)


def test_it_works_in_compatibility_mode(engine):
    arguments = {"compat": "diffusers", "strategy": "blend"}
    plain, on = (edit(engine, each, **arguments) for each in (None, Nudge(0.5)))
    assert not torch.equal(plain.latents, on.latents)


def test_what_is_no_control_is_refused(engine):
    with pytest.raises(InputError, match="Control objects or names"):
        edit(engine, [3])


def test_bound_joins_conditioning_and_branches():
    text = Conditioning({"encoder_hidden_states": torch.ones(1, 2, 3)})
    one = Bound(conditioning={"cond": {"a": torch.zeros(1, 1)}})
    two = Bound(conditioning={"cond": {"b": torch.ones(1, 1)}}, branches={"third": text})
    joined = one.beside(two).joined({"cond": text, "uncond": text})
    assert list(joined) == ["cond", "uncond", "third"]
    assert list(joined["cond"].tensors) == ["encoder_hidden_states", "a", "b"]
    assert joined["uncond"] is joined["third"] is text


@pytest.mark.parametrize("name", ["a:b.png", "a=b.png", "Shot 12:30:05.png", "x:0.5", "a=b:1:0-1"])
@pytest.mark.parametrize("settings", ["", ":0.5", ":0.5:0-0.6"])
def test_control_files_may_have_any_name(tmp_path, monkeypatch, name, settings):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"")
    for place in (name, str(tmp_path / name)):
        (control,) = Control.parse(f"canny={place}{settings}")
        assert (control.model, control.file) == ("canny", Path(place))
        assert control.scale == (0.5 if settings else 1)
        assert control.end == (0.6 if settings.count(":") == 2 else 1)


def test_the_longest_name_of_a_file_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(b"")
    (control,) = Control.parse("canny=a:0.5")
    assert (control.file, control.scale) == (Path("a"), 0.5)
    Path("a:0.5").write_bytes(b"")
    (control,) = Control.parse("canny=a:0.5")
    assert (control.file, control.scale) == (Path("a:0.5"), 1)


def test_a_networks_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "net=1:2"
    folder.mkdir()
    (control,) = Control.parse(f"{folder}=canny:0.5")
    assert (control.model, control.image, control.scale) == (str(folder), "canny", 0.5)


def test_a_hard_edge_through_latent_cells_is_two_strengths(engine):
    """B19: the latent grid has all strengths between the two of the map."""
    level = np.zeros((64, 64), np.float32)
    level[3:41, 5:50] = 0.5
    changes = {"mask": None, "strength_map": level, "strategy": "differential"}
    edit(engine, None, **changes, num_inference_steps=1)  # which can tell two apart

"""`softpaint doctor`: what it says, that it never hangs, and that a failure is one."""

from __future__ import annotations

import re
import socket
from time import perf_counter

import pytest

from engine import InpaintEngine
from engine.cli import doctor, run
from engine.errors import ModelError


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch, pocket):
    monkeypatch.setattr(InpaintEngine, "from_pretrained", lambda **_: pocket)


def test_tells_what_is_here_and_that_it_works(capsys):
    assert run(["doctor", "--device", "cpu"]) == 0
    told = dict(
        re.split(r"\s{2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines()
    )
    assert told["chosen"] == "cpu, float32"
    assert "diffusers 0." in told["libraries"]
    assert told["hub"] == "not asked: HF_HUB_OFFLINE is set"
    assert told["self-test"].startswith("passed: pocket model loaded in")
    assert "SDXL 12.9" in told["weights"]


def test_a_hub_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        began = perf_counter()
        told = doctor._hub()
        assert perf_counter() - began < 5
    assert re.search("cannot be reached|no answer", told)


def test_what_does_not_work_fails(monkeypatch, capsys):
    def broken(**_):
        raise ModelError("no such thing")

    monkeypatch.setattr(InpaintEngine, "from_pretrained", broken)
    assert run(["doctor", "--device", "cpu"]) == 1
    assert "FAILED: ModelError: no such thing" in capsys.readouterr().out
    assert run(["doctor", "--device", "cpu", "--no-test"]) == 0

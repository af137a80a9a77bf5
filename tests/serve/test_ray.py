"""Replicas behind Ray Serve: what asks for a job or a session finds its replica."""

from __future__ import annotations

import json
import socket
from io import BytesIO
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from engine.errors import InputError
from engine.serve.ids import Naming, replica_of


def test_a_name_says_whose_it_is():
    here, there, alone = Naming("abc12"), Naming("xyz"), Naming()
    assert replica_of(here.new()) == "abc12"
    assert here.is_elsewhere(there.new())
    assert not here.is_elsewhere(here.new())
    assert not alone.is_elsewhere(there.new())
    assert replica_of(alone.new()) is None
    assert here.new() != here.new()


@pytest.fixture
def replicas():
    pytest.importorskip("ray.serve", reason="softpaint[ray] is not installed")
    from engine.serve import ray

    return ray


@pytest.mark.parametrize(
    ("path", "query", "headers", "replica"),
    [
        ("/api/jobs/two.x_-y/results/0.png", "", {}, "two"),
        ("/api/sessions/one.abc/render", "", {"cookie": "softpaint-replica=two"}, "one"),
        ("/api/sessions/gone.abc", "", {"cookie": "softpaint-replica=two"}, None),
        ("/api/stack", "session=two.abc", {}, "two"),
        ("/api/stack", "", {"cookie": "a=b; softpaint-replica=two"}, "two"),
        ("/api/jobs", "", {"cookie": "softpaint-replica=gone"}, None),
        ("/api/jobs", "", {"cookie": '"='}, None),
        ("/api/jobs", "", {}, None),
    ],
)
def test_a_request_goes_to_the_replica_that_it_names(replicas, path, query, headers, replica):
    scope = {
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    assert replicas.wanted(scope, ["one", "two", "three"]) == replica


def test_a_repeated_request_goes_where_it_went(replicas):
    places = {
        replicas.wanted({"headers": [(b"idempotency-key", str(n).encode())]}, ["one", "two"])
        for n in range(16)
    }
    assert places == {"one", "two"}
    again = [
        replicas.wanted({"headers": [(b"Idempotency-Key", b"k")]}, names)
        for names in (["one", "two"], ["two", "one"])
    ]
    assert again[0] == again[1]


@pytest.mark.filterwarnings("default")  # Ray's own
def test_two_replicas_keep_their_sessions(replicas):
    """The same application twice behind one port: each session's renders go to its replica."""
    import ray
    from ray import serve

    data = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        data, "PNG"
    )
    strength_map = BytesIO()
    Image.new("L", (64, 64), 255).save(strength_map, "PNG")
    settings = json.dumps({"prompt": "a boat", "num_inference_steps": 1, "seed": 1})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, logging_level="error")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(replicas.Replica.options(num_replicas=2).bind({"device": "cpu"}, {}, {}))
        names = []
        for _ in range(8):
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                form: dict[str, Any] = {
                    "files": {"picture": data.getvalue()},
                    "data": {"settings": settings},
                }
                names.append(client.post("/api/sessions", **form).raise_for_status().json()["id"])
                # A client with cookies stays where it is.
                stays = client.post("/api/sessions", **form).json()["id"]
                assert replica_of(stays) == replica_of(names[-1])
        assert len({replica_of(name) for name in names}) == 2
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for name in names:
                client.cookies.clear()
                files = {"map": strength_map.getvalue()}
                rendered = client.post(f"/api/sessions/{name}/render", files=files)
                assert rendered.status_code == 202, rendered.text
                assert replica_of(rendered.json()["id"]) == replica_of(name)
            client.cookies.clear()
            assert client.get("/api/jobs/gone.abc").status_code == 410
    finally:
        serve.shutdown()
        ray.shutdown()


def test_replicas_have_one_token(replicas, monkeypatch):
    monkeypatch.delenv("SOFTPAINT_TOKEN", raising=False)
    with pytest.raises(InputError, match="set SOFTPAINT_TOKEN"):
        replicas.app({})
    with pytest.raises(InputError, match="'model' is none of"):
        replicas.app({"model": "pocket"})
    assert replicas.app({"local": True})

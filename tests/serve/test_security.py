"""What is refused, and that the server lives on after it."""

import io
import json
import socket
import struct
import time
import zlib

import numpy as np
import pytest

from engine.serve.guard import COOKIE, OPEN, Access
from engine.serve.limits import Limits
from tests.kit.serving import form, png, serving

TOKEN = "not-to-be-guessed"  # noqa: S105


@pytest.fixture(scope="module")
def guarded(pocket):
    """A server with a token, and small limits."""
    limits = Limits(bytes=2**20, patience=0.5, pace=10**6)
    access = Access(TOKEN, hosts=["paint.example"])
    with serving(pocket, limits, access, discreet=True) as running:
        yield running


@pytest.fixture(autouse=True)
def alive(request):
    """Every test ends with a server that answers."""
    yield
    for name in ("server", "guarded"):
        if name in request.fixturenames:
            running = request.getfixturevalue(name)
            assert running.client.get("/readyz").status_code == 200


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_a_wrong_token_or_none_is_refused_everywhere_but_at_the_door(guarded):
    schema = guarded.client.get("/openapi.json", headers=bearer(TOKEN)).json()
    closed = [path for path in schema["paths"] if path not in OPEN]
    assert len(closed) > 20
    for path in closed:
        method = next(iter(schema["paths"][path]))
        for headers in ({}, bearer("no"), {"authorization": TOKEN}):
            answer = guarded.client.request(method, path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
    about = guarded.client.get("/api/about")
    assert about.json()["token_required"] is True
    assert guarded.client.get("/api/settings", headers=bearer(TOKEN)).status_code == 200
    assert guarded.client.get("/api/settings", auth=("any", TOKEN)).status_code == 200
    assert guarded.client.get("/api/settings", auth=("any", "no")).status_code == 401


def test_a_page_bears_the_token_in_a_cookie_that_scripts_do_not_see(guarded):
    client = guarded.client
    assert client.post("/api/token", json={"token": "no"}).status_code == 401
    answer = client.post("/api/token", json={"token": TOKEN})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert COOKIE in client.cookies
    assert client.get("/api/settings").status_code == 200
    client.cookies.clear()
    assert client.get("/api/settings").status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7788", "127.0.0.1.evil.example", ""]
)
def test_another_host_is_refused(server, host):
    assert server.client.get("/api/about", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "[::1]:80", "192.168.1.7"])
def test_this_machines_names_are_its_own(server, host):
    assert server.client.get("/api/about", headers={"host": host}).status_code == 200


def test_a_name_that_was_allowed_is_taken(guarded):
    answer = guarded.client.get("/api/about", headers={"host": "paint.example"})
    assert answer.status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_form_of_another_origin_is_refused(server, scene, origin):
    answer = server.client.post(
        "/api/jobs", files=scene.files, data=form(), headers={"origin": origin}
    )
    assert answer.status_code == 403
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_picture_of_another_site_is_not_shown_there(server):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert server.client.get("/api/about", headers=headers).status_code == 403
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert server.client.get("/api/about", headers=own).status_code == 200


def test_answers_forbid_what_pages_need_not(server):
    headers = server.client.get("/api/about").headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert "unsafe" not in policy
    assert "*" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def header_of(width: int, height: int) -> bytes:
    """A PNG that says its size, and has next to no pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_a_header_that_says_too_many_pixels_is_refused_before_decoding(server, scene, size):
    began = time.monotonic()
    for files in (
        {"picture": header_of(*size)},
        {"picture": scene.picture, "map": header_of(*size)},
    ):
        answer = server.client.post("/api/jobs", files=scene.files | files, data=form())
        assert answer.status_code in {400, 413}
    wide = form(expand=[0, 0, 16000, 16000])
    assert server.client.post("/api/jobs", files=scene.files, data=wide).status_code == 413
    answer = server.client.post("/api/jobs", files=scene.files, data=form(native_size=16384))
    assert answer.status_code == 413
    assert time.monotonic() - began < 20


def test_a_png_of_death_is_refused(server, scene):
    text = zlib.compress(b"\0" * 80_000_000, 9)
    whole = scene.picture

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    bomb = whole[:33] + chunk(b"zTXt", b"a\0\0" + text) + whole[33:]
    assert len(bomb) < 200_000
    began = time.monotonic()
    answer = server.client.post("/api/jobs", files=scene.files | {"picture": bomb}, data=form())
    assert answer.status_code == 400
    assert time.monotonic() - began < 10


def test_no_path_and_no_address_is_taken_from_a_request(server, scene, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(np.zeros((128, 128, 3), np.uint8)))
    for changes in (
        {"image": str(secret)},
        {"mask": str(secret)},
        {"strength_map": f"file://{secret}"},
        {"context_mask": "https://example.org/a.png"},
        {"mask_image": str(secret)},
        {"prefill": f"gan:{secret}"},
        {"strategy": "remove", "fill": f"gan:{secret}"},
        {"strategy": "staged", "options": {"stages": f"differential+{secret}"}},
        {"strategy": f"differential+{tmp_path}"},
        {"controls": [str(tmp_path)]},
        {"controls": ["lllyasviel/control_v11p_sd15_canny"]},
        {"controls": [{"name": "canny", "image": str(secret)}]},
        {"controls": [{"name": "canny", "annotator": str(secret)}]},
        {"scheduler": str(secret)},
        {"ip_adapter_image": str(secret)},
        {"generator": 1},
        {"callback": "os.system"},
        {"output_type": "latent"},
    ):
        answer = server.client.post("/api/jobs", files=scene.files, data=form(**changes))
        assert answer.status_code == 400, changes


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/..%2fapp.py",
        "/page//etc/passwd",
        "/page/%00",
        "/api/jobs/..%2f..%2fetc/results/0.png",
        "/api/samples/..%2fwinter/picture.png",
    ],
)
def test_no_file_beside_the_pages_is_told(server, path):
    with socket.create_connection(("127.0.0.1", server.port), 5) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split()[1] in {b"400", b"404"}


def test_names_in_a_form_are_never_used(server, scene, tmp_path):
    name = f"../../{tmp_path.name}/x.png"
    files = {"picture": (name, scene.picture), "map": ("/etc/passwd", scene.map)}
    answer = server.client.post(
        "/api/jobs?wait=true", files=files, data=form(num_inference_steps=1)
    )
    assert answer.status_code == 200
    assert tmp_path.name not in answer.headers["content-disposition"]
    assert b"passwd" not in answer.content


def test_a_body_that_says_a_gigabyte_is_refused_at_once(server):
    with socket.create_connection(("127.0.0.1", server.port), 5) as raw:
        raw.sendall(
            b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; "
            b"boundary=x\r\nContent-Length: 1073741824\r\n\r\n"
        )
        assert raw.recv(100).split()[1] == b"413"


def test_a_body_that_grows_beyond_the_limit_is_refused(guarded):
    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n'
        for _ in range(64):
            yield b"\0" * 65536

    headers = bearer(TOKEN) | {"content-type": "multipart/form-data; boundary=x"}
    answer = guarded.client.post("/api/jobs", content=endless(), headers=headers)
    assert answer.status_code == 413


def test_a_slow_upload_is_refused(guarded):
    head = (
        f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n\r\n--x\r\n"
    )
    with socket.create_connection(("127.0.0.1", guarded.port), 10) as raw:
        began = time.monotonic()
        raw.sendall(head.encode())
        answer = raw.recv(100)
        assert answer.split()[1] == b"408"
        assert 0.2 < time.monotonic() - began < 8


def test_results_tell_nothing_of_where_the_server_keeps_its_model(guarded, scene, monkeypatch):
    engine = guarded.service.engine
    monkeypatch.setattr(engine, "name", "/secret/place/model")
    load = {"model": "/secret/place/model", "lora": ["/secret/place/style.safetensors:0.8"]}
    monkeypatch.setattr(engine, "_load", load)
    monkeypatch.setattr(guarded.service.worker, "_fore", engine.runtime())
    answer = guarded.client.post(
        "/api/jobs?wait=true",
        files=scene.files,
        data=form(num_inference_steps=1),
        headers=bearer(TOKEN),
    )
    assert answer.status_code == 200
    assert b"secret" not in answer.content
    job = guarded.client.get(
        f"/api/jobs/{answer.headers['x-softpaint-job']}", headers=bearer(TOKEN)
    )
    assert "secret" not in job.text
    assert job.json()["results"][0]["settings"]["model"] == "model"


def test_broken_forms_and_bodies_are_refused(server, scene):
    post = server.client.post
    assert (
        post("/api/jobs", content=b"x", headers={"content-type": "text/plain"}).status_code == 400
    )
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert post("/api/jobs", content=b"--y\r\n\r\n", headers=broken).status_code == 400
    deep = "[" * 100_000
    assert post("/api/jobs", files=scene.files, data={"settings": deep}).status_code == 400
    assert post("/sdapi/v1/img2img", content=deep).status_code == 400
    assert post("/sdapi/v1/img2img", json=[1]).status_code == 400
    many = io.BytesIO(b"".join(b"--x\r\n" for _ in range(10)))
    assert post("/api/jobs", content=many.read(), headers=broken).status_code == 400
    assert json.loads(post("/api/jobs").text)["error"]["message"]

"""The server as a process: what it prints, and what becomes of its work when it is told to end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import httpx2
import pytest

from engine.errors import InputError
from engine.serve.run import address, is_loopback, listen
from tests.kit.serving import form, pixels


def test_sigterm_lets_what_runs_end_and_tells_what_waits(scene, tmp_path):
    command = [sys.executable, "-m", "engine.cli", "serve", "--port", "0", "--running", "1"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    with subprocess.Popen(
        [*command, "--device", "cpu"], stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            with httpx2.Client(base_url=url, timeout=60) as client:
                answers = []

                def wait(steps: int) -> None:
                    data = form(num_inference_steps=steps)
                    answers.append(client.post("/api/jobs?wait=true", files=scene.files, data=data))

                running = threading.Thread(target=wait, args=(25,))
                running.start()
                while b"softpaint_running_jobs 1.0" not in client.get("/metrics").content:
                    time.sleep(0.02)
                waiting = threading.Thread(target=wait, args=(26,))
                waiting.start()
                while b"softpaint_waiting_jobs 1.0" not in client.get("/metrics").content:
                    time.sleep(0.02)
                process.send_signal(signal.SIGTERM)
                running.join(30)
                waiting.join(30)
            told = {each.status_code: each for each in answers}
            assert set(told) == {200, 503}
            assert pixels(told[200].content).shape == (128, 128, 3)
            assert "retry-after" in told[503].headers
            assert "going down" in json.dumps(told[503].json())
            assert process.wait(30) in {0, -signal.SIGTERM}
        finally:
            process.kill()


def test_a_port_that_is_taken_is_said_or_the_next_one_is_had():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InputError, match="--port"):
            listen("127.0.0.1", port)
        with listen("127.0.0.1", port, nearby=10) as second:
            assert port < second.getsockname()[1] <= port + 10
        assert address("127.0.0.1", first) == f"http://127.0.0.1:{port}/"
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")  # noqa: S104
    assert not is_loopback("example.org")

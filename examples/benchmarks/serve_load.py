"""Load the server with many clients, and diffusers' pipeline behind a plain FastAPI endpoint.

    python examples/benchmarks/serve_load.py [--seconds 180] [--clients 64] [--json FILE]
    python examples/benchmarks/serve_load.py --kinds 2000  # hardly a picture comes twice

Both serve the pocket model's weights to the same clients, which ask for mixed strategies, steps,
scenes and seeds: again as soon as they were answered, and soon where they were refused. Steps,
size, guidance, scheduler, precision and file format are the same for both; the pipeline has one
strategy, knows hard masks only, matches no colours and pastes nothing. Every picture that the
server has made is made again with the server idle, and compared.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
import numpy as np
from fastapi import FastAPI, File, Form, Response
from PIL import Image

from engine.pocket.world import sample_edits

STRATEGIES = ("differential", "blend", "soft-blend")
STEPS = (6, 8, 10, 12)
KINDS = 24
"""Different edits that are asked for."""
IMPATIENCE = 1.0
"""Seconds after which a refused client asks again, whatever it was told."""
QUEUE, RUNNING, KEPT = 16, 8, 64
"""Jobs that wait, that run, that are remembered."""
CURVE = 30.0
"""Seconds between the memory's figures that are printed."""


@dataclass(frozen=True)
class Edit:
    """What a client asks for."""

    picture: bytes
    strength_map: bytes
    settings: dict[str, Any]

    def post(self, client: httpx2.Client, path: str) -> httpx2.Response:
        """Ask for it, and wait for the picture."""
        files = {"picture": self.picture, "map": self.strength_map}
        data = {"settings": json.dumps(self.settings), "figures": "false"}
        return client.post(path, files=files, data=data)


@dataclass
class Report:
    """What came of it."""

    name: str
    seconds: float = 0.0
    pictures: int = 0
    asked: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    latency_p50: float = 0.0
    latency_p95: float = 0.0
    memory_mb: list[float] = field(default_factory=list)
    """The server's, at even distances."""
    memory_at: list[float] = field(default_factory=list)
    """When that was, in s."""
    processor: float = 0.0
    """Seconds of the server's processor time for a picture: what other programs hardly disturb."""
    different: int = 0
    """Pictures that are not their solo run's, in any bit."""
    furthest: int = 0
    """Levels, 0 to 255, by which a pixel is off."""

    @property
    def per_minute(self) -> float:
        return self.pictures / self.seconds * 60 if self.seconds else 0.0

    def line(self) -> str:
        """A row of the table."""
        settled = self.memory_mb[len(self.memory_mb) // 3 :] or [0.0]
        refused = ", ".join(f"{n} x {status}" for status, n in sorted(self.statuses.items()))
        return (
            f"| {self.name} | {self.per_minute:.1f} | {self.asked / max(1, self.pictures):.1f} | "
            f"{self.processor:.2f} | {self.latency_p50:.1f} | {self.latency_p95:.1f} | {refused} | "
            f"{settled[0]:.0f} to {settled[-1]:.0f} | {self.different} ({self.furthest}) |"
        )

    def curve(self) -> str:
        """The memory's course: its median in each so many seconds."""
        spans: dict[int, list[float]] = {}
        for at, held in zip(self.memory_at, self.memory_mb, strict=True):
            spans.setdefault(int(at // CURVE), []).append(held)
        shown = ", ".join(f"{np.median(several):.0f}" for several in spans.values())
        return f"{self.name}: MB in each {CURVE:.0f} s: {shown}"


HEAD = (
    "| server | pictures a minute | asked / made | processor s a picture | p50 s | p95 s | "
    "answers | memory MB | differ from solo (levels) |\n|---|---|---|---|---|---|---|---|---|"
)


def png(pixels: np.ndarray) -> bytes:
    """A PNG of an array."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def edits(kinds: int = KINDS, steps: Sequence[int] = STEPS) -> list[Edit]:
    """Different edits of the pocket's scenes."""
    scenes, dice = sample_edits(128), random.Random(0)
    several = []
    for kind in range(kinds):
        scene = scenes[kind % len(scenes)]
        image = scene.image.copy()
        image[0, 0] = (kind % 256, kind // 256, 0)  # no two are the same picture
        soft = scene.mask if scene.strength_map is None else scene.strength_map
        settings = {
            "prompt": scene.prompt,
            "strategy": STRATEGIES[kind % len(STRATEGIES)],
            "num_inference_steps": dice.choice(list(steps)),
            "seed": kind,
        }
        grey = np.round(np.asarray(soft, np.float32) * 255).astype(np.uint8)
        several.append(Edit(png(image), png(grey), settings))
    return several


def load(
    name: str,
    url: str,
    path: str,
    several: Sequence[Edit],
    *,
    seconds: float,
    clients: int,
    memory: Callable[[], float] = lambda: 0.0,
) -> tuple[Report, dict[int, list[bytes]]]:
    """Ask for ``seconds`` with so many clients at a time; the pictures by the edit's number."""
    report, lock = Report(name), threading.Lock()
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    made: dict[int, list[bytes]] = {}
    began = time.monotonic()
    until = began + seconds

    def ask(number: int) -> None:
        dice = random.Random(number)
        with httpx2.Client(base_url=url, timeout=600) as client:
            while time.monotonic() < until:
                which, start = dice.randrange(len(several)), time.monotonic()
                answer = several[which].post(client, path)
                taken = time.monotonic() - start
                with lock:
                    statuses[answer.status_code] += 1
                    if answer.status_code == 200 and start + taken <= until:
                        latencies.append(taken)
                        report.pictures += 1
                    if answer.status_code == 200:
                        made.setdefault(which, []).append(answer.content)
                if answer.status_code != 200:
                    told = float(answer.headers.get("retry-after", 1))
                    time.sleep(min(told, IMPATIENCE) * (0.5 + dice.random()))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if time.monotonic() < until:
            report.memory_mb.append(memory())
            report.memory_at.append(time.monotonic() - began)
        time.sleep(min(2.0, seconds / 10))
    report.seconds = seconds
    report.asked, report.statuses = sum(statuses.values()), dict(statuses)
    if latencies:
        report.latency_p50, report.latency_p95 = np.percentile(latencies, [50, 95]).tolist()
    return report, made


def compare(
    report: Report, url: str, path: str, several: Sequence[Edit], made: dict[int, list[bytes]]
) -> None:
    """Make each picture again, alone, and count those that differ."""

    def pixels(data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data))).astype(np.int16)

    with httpx2.Client(base_url=url, timeout=600) as client:
        for which, pictures in made.items():
            alone = pixels(several[which].post(client, path).content)
            for data in pictures:
                off = int(np.abs(pixels(data) - alone).max())
                report.different += off > 0
                report.furthest = max(report.furthest, off)


def resident(process: int) -> float:
    """MB of memory that a process holds."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def processor_time(process: int) -> float:
    """Seconds that a process has computed, see proc(5)."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def started(command: Sequence[str]) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address and the process's number."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            yield (process.stdout or io.StringIO()).readline().strip().rstrip("/"), process.pid
        finally:
            process.terminate()


def plain() -> None:
    """Serve diffusers' pipeline as one does in twenty lines: an endpoint, a lock."""
    import torch
    import uvicorn

    from engine import InpaintEngine
    from engine.evaluate.peers import peer_pipeline, run_peer
    from engine.serve.run import listen
    from engine.solvers.names import fresh_scheduler

    engine = InpaintEngine.from_pretrained()
    pipe = peer_pipeline(
        engine.backbone, "diffusers-4ch", fresh_scheduler(None, engine.pipe.scheduler)
    )
    app, lock = FastAPI(), threading.Lock()

    @app.post("/edit")
    def edit(
        picture: Annotated[bytes, File()],
        strength: Annotated[bytes, File(alias="map")],
        settings: Annotated[str, Form()],
    ) -> Response:
        asked = json.loads(settings)
        image, mask = (Image.open(io.BytesIO(each)) for each in (picture, strength))
        with lock, torch.inference_mode():
            (made,) = run_peer(
                pipe,
                images=[image.convert("RGB")],
                masks=[mask],
                prompts=[asked["prompt"]],
                seeds=[asked["seed"]],
                num_inference_steps=asked["num_inference_steps"],
                guidance_scale=5.0,
                strength=1.0,  # its default leaves a step out
            )
        return Response(png(np.asarray(made)), media_type="image/png")

    sock = listen("127.0.0.1", 0)
    print(f"http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[sock])


def main() -> None:
    """Run both servers, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--kinds", type=int, default=KINDS, help="different edits asked for")
    parser.add_argument("--alone", action="store_true", help="without diffusers' pipeline")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.plain:
        plain()
        return
    several, python = edits(asked.kinds), sys.executable
    ours = [python, "-m", "engine.cli", "serve", "--port", "0"]
    ours += ["--queue", str(QUEUE), "--running", str(RUNNING), "--keep", str(KEPT)]
    servers = {
        "softpaint": (ours, "/api/jobs?wait=true"),
        "diffusers behind FastAPI": ([python, __file__, "--plain"], "/edit"),
    }
    if asked.alone:
        del servers["diffusers behind FastAPI"]
    reports = []
    for name, (command, path) in servers.items():
        with started(command) as (url, process):
            with httpx2.Client(base_url=url, timeout=600) as client:
                for edit in several[:3]:
                    edit.post(client, path)
            began = processor_time(process)
            report, made = load(
                name,
                url,
                path,
                several,
                seconds=asked.seconds,
                clients=asked.clients,
                memory=lambda process=process: resident(process),  # type: ignore[misc]
            )
            count = sum(len(each) for each in made.values())
            report.processor = (processor_time(process) - began) / max(1, count)
            if name == "softpaint":
                compare(report, url, path, several, made)
        reports.append(report)
    print("\n".join([HEAD, *(report.line() for report in reports)]))
    print("\n" + "\n".join(report.curve() for report in reports))
    told: dict[str, Any] = {"reports": [asdict(report) for report in reports]}
    if len(reports) == 2:
        ours_made, theirs = reports
        told["ratio"] = ours_made.per_minute / max(1e-9, theirs.per_minute)
        told["processor_ratio"] = theirs.processor / max(1e-9, ours_made.processor)
        print(
            f"\n{told['ratio']:.2f} times the pictures a minute, {told['processor_ratio']:.2f} "
            f"times those of a second of processor time; {asked.clients} clients"
        )
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

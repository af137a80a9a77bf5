"""Kill batches at random moments, fill their disk, change their manifest: is all made, and once?

    python examples/benchmarks/batch_kill.py --moments 40 [--seed 1] [--ways alone,workers,ray]

Makes small photos of several formats with masks and a manifest of edits by several strategies,
three of the photos broken, and edits them undisturbed. Then the same batch is begun again and
again: at drawn moments one of its processes (the command itself, a worker, a Ray actor, the whole
tree) gets SIGKILL, and the same command is started anew, by another way of running each time, until
it ends. Each time the folder is looked at, while it is unfinished and at its end:

- nothing lost: every edit has its line or its failure at the end;
- nothing twice: one line for a picture, and a picture that had its line is the same file for ever;
- nothing half written: every picture opens and decodes, no temporary file is left at the end;
- ``verify`` is clean, and pictures are the undisturbed run's (largest difference of a value).

Then, where file systems can be mounted (root on Linux): the disk is full and grows, the folder is
read-only and is so no more; and everywhere: the manifest is changed in between. Ray is left out
where it is not installed. Ends with 1 and says what was wrong, if anything was.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from PIL import Image

from engine.batch.store import FAILURES, LINES, REPORT, Store

STEPS = 4
BROKEN = ("broken-cut.png", "in/broken-text.jpg", "broken-none.png")
EXACT = 1
"""Levels (of 255) by which a picture may differ: shared calls add in another order."""
LOSSY = 12
"""The same after JPEG, which makes more of one level."""
PATIENCE = 1500.0
"""Seconds for which anything is waited for."""
LIBRARIES = (
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint",
    "transformers.models.clip.modeling_clip",
    *("engine.engine", "engine.batch.run", "engine.report.batch", "engine.cli.batch", "strategies"),
)
WAYS: Mapping[str, Sequence[str]] = {
    "alone": (),
    "workers": ("--workers", "2"),
    "ray": ("--engine", "ray", "--workers", "2", "--part", "5"),
}
STARTED: Mapping[str, int] = {"alone": 6, "workers": 3, "ray": 1}
"""How often each is drawn, beside the others: those that take long to start less often."""
TARGETS: Mapping[str, Sequence[str]] = {
    "alone": ("command",),
    "workers": ("worker", "worker", "command", "tree"),
    "ray": ("worker", "worker", "command", "tree"),
}


def make_photos(folder: Path, count: int) -> list[dict[str, Any]]:
    """Photos of 64 px and about, their masks, and the rows of a manifest that edits them."""
    draw = np.random.default_rng(3)
    settings: Sequence[Mapping[str, Any]] = (
        {"prompt": "a red house"},
        {"prompt": "a boat", "strategy": "differential"},
        {"prompt": "a tree", "strategy": "soft-blend", "scheduler": "ddim"},
        {"prompt": "a car", "strategy": "inpaint9"},
        {"prompt": ["a red house", "a blue boat"]},
        {"prompt": "a meadow", "num_images": 2},
    )
    rows: list[dict[str, Any]] = []
    for number in range(count):
        suffix = ("png", "jpg", "webp", "bmp", "tiff")[number % 5]
        width, height = ((64, 64), (72, 56), (56, 80))[number % 3]
        name = f"{('', 'in/', 'in/deep/')[number % 3]}photo{number:02}.{suffix}"
        path, mask = folder / name, folder / f"masks/{number:02}.png"
        for each in (path, mask):
            each.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draw.integers(0, 255, (4, 4, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)
        marked = np.zeros((height, width), np.uint8)
        marked[16:40, 12:44] = 255
        Image.fromarray(marked).save(mask)
        row = {"image": name, "mask": f"masks/{number:02}.png", **settings[number % len(settings)]}
        if number == 7:
            region = {"map": f"masks/{number:02}.png", "prompt": "a blue boat"}
            row = {"image": name, "prompt": "a meadow", "regions": [region]}
        rows.append(row)
    whole = (folder / rows[0]["image"]).read_bytes()
    (folder / BROKEN[0]).write_bytes(whole[: len(whole) // 2])
    (folder / BROKEN[1]).write_text("no picture")
    for place, name in zip((2, 9, 14), BROKEN, strict=True):
        rows.insert(place, {"image": name, "mask": "masks/00.png", "prompt": "a red house"})
    return rows


def write_manifest(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a manifest, as an editor would: in place of what was there."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- processes -----------------------------------------------------------------------------------


def children(process: int) -> list[int]:
    """The processes that one has begun and that live."""
    found: list[int] = []
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += map(int, thread.read_text().split())
        except OSError:  # it has ended meanwhile
            continue
    return found


def below(process: int) -> Iterator[int]:
    """All that come from a process."""
    for child in children(process):
        yield child
        yield from below(child)


def called(process: int) -> str:
    """A process's command line."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def ended(processes: Sequence[int]) -> bool:
    """Whether none of them is left."""
    return not any(called(each) for each in processes)


def kill(processes: Sequence[int]) -> None:
    """SIGKILL to all of them, as near to at once as can be."""
    for stopped in (signal.SIGSTOP, signal.SIGKILL):
        for process in processes:
            try:
                os.kill(process, stopped)
            except ProcessLookupError:
                continue


def command(arguments: Sequence[str], log: Path) -> NoReturn:
    """Be ``softpaint`` in this process, which was forked from one that has only imported the
    libraries: that takes longer than the whole batch, and kills are to meet the batch's own work.
    """
    os.setsid()
    told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(told, stream)
    sys.argv = ["softpaint", *arguments]
    code: object = 70
    try:
        runpy.run_module("engine.cli", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - told, and no code of the parent's may follow
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else bool(code))


@dataclass
class Run:
    """One start of the batch's command."""

    manifest: Path
    out: Path
    way: str
    log: Path

    def __post_init__(self) -> None:
        arguments = ["batch", str(self.manifest), "-o", str(self.out)]
        arguments += ["--steps", str(STEPS), "--seed", "5", *WAYS[self.way]]
        self.code: int | None = None
        self.process = os.fork()
        if self.process == 0:
            command(arguments, self.log)

    @property
    def runs(self) -> bool:
        """Whether the command has not ended."""
        if self.code is None:
            ended, status = os.waitpid(self.process, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if ended else None
        return self.code is None

    @property
    def said(self) -> str:
        """All that it has said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def victims(self, target: str) -> list[int]:
        """The processes of a target, itself or one of several last."""
        own = self.process
        if target == "command":
            return [own]
        tree = list(below(own))
        if target == "tree":
            return [own, *tree]
        if self.way == "ray":
            return [
                each
                for each in tree
                if called(each).startswith("ray::") and "Editor" in called(each)
            ]
        keepers = [each for each in tree if "forkserver" in called(each)]
        return [child for each in keepers for child in children(each)]

    def end(self) -> int:
        """Wait for it; its exit code."""
        try:
            wait_for(lambda: not self.runs, f"{self.way} hangs")
        except TimeoutError:
            tell(f"it hangs; it said:\n{self.said}")
            kill([self.process, *below(self.process)])
            raise
        return self.code or 0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so; raises ``TimeoutError``."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.01)


def is_full(run: Run) -> bool:
    """Whether a run has told of a full disk, or has ended."""
    return not run.runs or "is full" in run.said


def has_pictures(run: Run, count: int) -> bool:
    """Whether there are so many, or the run has ended."""
    return not run.runs or len(pictures_of(run.out)) >= count


# --- what a folder must be -----------------------------------------------------------------------


def pictures_of(out: Path) -> dict[str, Path]:
    """The pictures of a batch's folder, by their names in it."""
    others = {LINES, FAILURES, REPORT}
    found = {}
    # unlike rglob, a walk bears that somebody deletes folders meanwhile
    for place, folders, names in os.walk(out):
        folders[:] = [each for each in folders if not each.startswith(".")]
        for name in names:
            if not name.startswith(".") and name not in others:
                path = Path(place) / name
                found[path.relative_to(out).as_posix()] = path
    return dict(sorted(found.items()))


def pixels(path: Path) -> np.ndarray[Any, np.dtype[np.int16]]:
    """A picture's values."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.int16)


@dataclass
class Watch:
    """Looks at one batch's folder again and again.

    Args:
        out: the folder.
        like: of an undisturbed run.
    """

    out: Path
    like: Path
    wrong: list[str] = field(default_factory=list)
    worst: int = 0
    """The largest difference of a value from the undisturbed run's pictures without loss."""
    _known: dict[str, tuple[object, ...]] = field(default_factory=dict)

    def look(self) -> None:
        """At any moment, whoever works in it or has just been killed there."""
        if not (self.out / ".softpaint/batch.json").exists():
            return
        seen: set[str] = set()
        for line in Store.existing(self.out).lines():
            name = line["file_name"]
            if name in seen:
                self.wrong.append(f"{name} has two lines")
            seen.add(name)
            try:
                found = (self.out / name).stat()
            except OSError:
                self.wrong.append(f"{name} has its line and is not there")
                continue
            mark = (line["id"], line["sha256"], found.st_ino, found.st_mtime_ns)
            if self._known.setdefault(name, mark) != mark:
                self.wrong.append(f"{name} was made twice")
        if lost := self._known.keys() - seen:
            self.wrong.append(f"{sorted(lost)} had lines and have none")
        for name, path in pictures_of(self.out).items():
            try:
                pixels(path)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no picture
                self.wrong.append(f"{name} is half written: {error}")
        broken = Store.existing(self.out).verify().broken
        self.wrong += [each for each in broken if "has no line" not in each]

    def look_at_the_end(self, failures: Sequence[str] = BROKEN, gone: Sequence[str] = ()) -> None:
        """When a run has ended by itself."""
        self.look()
        store = Store.existing(self.out)
        self.wrong += list(store.verify().broken)
        if sorted(store.failures) != sorted(failures):
            self.wrong.append(f"failures are {sorted(store.failures)}")
        theirs, ours = pictures_of(self.like), pictures_of(self.out)
        if ours.keys() != theirs.keys() | set(gone):
            self.wrong.append(f"other pictures: {sorted(ours.keys() ^ theirs.keys())}")
        self.wrong += [f"{path} is left" for path in self.out.rglob(".softpaint-*.tmp")]
        ids = [
            {n["file_name"]: n["id"] for n in Store.existing(each).lines()}
            for each in (self.out, self.like)
        ]
        for name in ours.keys() & theirs.keys():
            difference = int(np.abs(pixels(ours[name]) - pixels(theirs[name])).max())
            lossy = name.endswith((".jpg", ".webp"))
            if difference > (LOSSY if lossy else EXACT):
                self.wrong.append(f"{name} differs by {difference} from the undisturbed one")
            if not lossy:
                self.worst = max(self.worst, difference)
            if ids[0].get(name) != ids[1].get(name):
                self.wrong.append(f"{name} has another id")


# --- the campaign --------------------------------------------------------------------------------


@dataclass
class Campaign:
    """Batches that are disturbed, in one folder."""

    folder: Path
    rows: list[dict[str, Any]]
    ways: Sequence[str]
    draw: random.Random
    wrong: list[str] = field(default_factory=list)
    worst: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    starts: int = 0

    def __post_init__(self) -> None:
        self.manifest = self.folder / "photos/edits.jsonl"
        write_manifest(self.manifest, self.rows)
        self.like = self.folder / "undisturbed"
        self.finish(self.like, "alone")
        self.count = len(pictures_of(self.like))
        pages = [-(-path.stat().st_size // 4096) for path in pictures_of(self.like).values()]
        self.room = 4096 * sum(pages)

    def start(self, out: Path, way: str) -> Run:
        """Start the command."""
        self.starts += 1
        return Run(self.manifest, out, way, self.folder / f"log-{self.starts:03}.txt")

    def finish(self, out: Path, way: str) -> Run:
        """Let the command end by itself, which says that the broken ones have failed."""
        run = self.start(out, way)
        if (code := run.end()) != 1:
            self.wrong.append(f"it ends with {code} ({way}): {run.said[-2000:]}")
        return run

    def closed(self, watch: Watch, what: str) -> None:
        """Take over what a watch has found."""
        self.wrong += [f"{what}: {each}" for each in dict.fromkeys(watch.wrong)]
        self.worst = max(self.worst, watch.worst)
        tell(f"{what}: {'; '.join(watch.wrong) or 'as it should be'}")

    # Kills -------------------------------------------------------------------------------------

    def kills(self, moments: int) -> None:
        """So many kills, over as many batches as they take."""
        batches = 0
        while sum(self.killed.values()) < moments:
            batches += 1
            out = self.folder / f"killed-{batches}"
            watch = Watch(out, self.like)
            before = sum(self.killed.values())
            while self.disturbed(watch, moments):
                pass
            watch.look_at_the_end()
            size = {path: path.stat().st_mtime_ns for path in pictures_of(out).values()}
            self.finish(out, "alone")  # once more: nothing is left to do
            if size != {path: path.stat().st_mtime_ns for path in pictures_of(out).values()}:
                watch.wrong.append("a further start made something")
            self.closed(watch, f"batch {batches}, {sum(self.killed.values()) - before} kills")
            shutil.rmtree(out)

    def disturbed(self, watch: Watch, moments: int) -> bool:
        """Start the command and kill of it; whether it must be started again."""
        way = self.draw.choices(self.ways, [STARTED[each] for each in self.ways])[0]
        run = self.start(watch.out, way)
        while sum(self.killed.values()) < moments and self.moment(run, watch.out):
            target = self.draw.choice(TARGETS[way])
            victims = run.victims(target)
            if not victims or not run.runs:
                continue  # no worker is there yet
            if target == "worker":
                victims = [self.draw.choice(victims)]
            rest = [] if target == "worker" else list(below(run.process))
            kill(victims)
            self.killed[f"{way}: {target}"] += 1
            tell(
                f"  {sum(self.killed.values())}. {way}: {target} at {len(pictures_of(watch.out))}"
                f" of {self.count} pictures"
            )
            watch.look()
            if target != "worker":
                run.end()
                if way != "ray":  # its actors may go on for a while beside the next run
                    wait_for(partial(ended, rest), "orphans that live")
                watch.look()
                return True
        if (code := run.end()) != 1:
            watch.wrong.append(f"it ends with {code} ({way}): {run.said[-2000:]}")
        return False

    def moment(self, run: Run, out: Path) -> bool:
        """Wait for a drawn moment of a run: some of them while it starts, most while pictures come
        in; False when it ends before.
        """
        early = self.draw.random() < 0.15
        start = time.monotonic() + self.draw.uniform(0.1, 5.0)
        here = len(pictures_of(out))
        pictures = here + self.draw.randint(0, max(1, (self.count - here) // 2))
        pause = self.draw.uniform(0, 0.4)
        while run.runs:
            if early and time.monotonic() > start:
                return True
            if not early and len(pictures_of(out)) >= pictures and (out / ".softpaint").exists():
                time.sleep(pause)
                return True
            time.sleep(0.005)
        return False

    # Disks -------------------------------------------------------------------------------------

    def full_disk(self) -> None:
        """A disk that is full before half is done: killed while it waits, then the disk grows."""
        for way in self.ways:
            with mounted(self.folder / "disk", f"size={self.room // 2}") as disk:
                watch = Watch(disk / "out", self.like)
                for _ in range(2):
                    run = self.start(watch.out, way)
                    wait_for(partial(is_full, run), "a full disk")
                    if not run.runs:
                        watch.wrong.append(f"it did not wait: {run.said}")
                    watch.look()
                    kill(run.victims("tree"))
                    run.end()
                    watch.look()
                run = self.start(watch.out, way)
                wait_for(partial(is_full, run), "a full disk")
                mount("-o", "remount,size=64m", str(disk))
                if (code := run.end()) != 1 or "room again" not in run.said:
                    watch.wrong.append(f"it ends with {code}: {run.said[-2000:]}")
                watch.look_at_the_end()
                self.closed(watch, f"full disk, {way}")

    def read_only(self) -> None:
        """A folder that cannot be written: at the start, and one inside it while a run is."""
        with mounted(self.folder / "disk", "size=64m") as disk:
            watch = Watch(disk / "out", self.like)
            for way in self.ways:
                mount("-o", "remount,ro", str(disk))
                self.refused(watch, way, "read-only")
                mount("-o", "remount,rw", str(disk))
                run = self.start(watch.out, way)
                wait_for(partial(has_pictures, run, 1), "pictures")
                kill(run.victims("tree"))
                run.end()
                inside = watch.out / "in"
                inside.mkdir(exist_ok=True)
                mount("--bind", str(inside), str(inside))
                mount("-o", "remount,bind,ro", str(inside))
                self.refused(watch, way, "read-only")
                unmount(inside)
            self.finish(watch.out, self.ways[0])
            watch.look_at_the_end()
            self.closed(watch, "read-only")

    def refused(self, watch: Watch, way: str, reason: str) -> None:
        """Start the command, which must end with one clear line."""
        run = self.start(watch.out, way)
        code = run.end()
        clear = reason in run.said.lower() and "Traceback" not in run.said
        if code == 0 or not clear:
            watch.wrong.append(f"refused with {code} ({way}): {run.said[-2000:]}")
        watch.look()

    # The manifest ------------------------------------------------------------------------------

    def changed_manifest(self) -> None:
        """Rows are added, changed and dropped after a kill."""
        run = self.start(self.folder / "changed", "alone")
        wait_for(partial(has_pictures, run, 4), "pictures")
        kill(run.victims("tree"))
        run.end()
        # Lines that wait for no other are all there: the run before was of one process.
        done = {line["item"] for line in Store.existing(run.out).lines()}
        named = [row for row in self.rows if isinstance(row.get("prompt"), str)]
        undone = [row for row in named if row["image"] not in {*done, *BROKEN}]
        made = [row for row in named if row["image"] in done]
        wanted = [dict(row) for row in self.rows]
        wanted[self.rows.index(undone[-1])]["prompt"] = "a yellow sun"
        wanted.remove(undone[0])
        wanted.append({**self.rows[0], "prompt": "a green tree", "output": "added/new.png"})
        like = self.folder / "undisturbed-changed"
        write_manifest(self.manifest, wanted)
        self.finish(like, "alone")
        watch = Watch(run.out, like)
        wrong = [{**row, "prompt": "a castle"} if row == made[0] else row for row in wanted]
        write_manifest(self.manifest, wrong)
        self.refused(watch, "alone", repr(made[0]["image"]))
        write_manifest(self.manifest, wanted)
        self.finish(run.out, "alone")
        watch.look_at_the_end()
        self.closed(watch, "changed manifest")
        write_manifest(self.manifest, self.rows)


def mount(*arguments: str) -> None:
    """Run ``mount``."""
    subprocess.run(["mount", *arguments], check=True, capture_output=True)  # noqa: S603, S607


def unmount(place: Path) -> None:
    """Take a file system away, whoever still looks at it."""
    subprocess.run(["umount", "-l", str(place)], check=True)  # noqa: S603, S607


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A file system in memory."""
    place.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", options, "tmpfs", str(place))
    try:
        yield place
    finally:
        unmount(place)


def can_mount(folder: Path) -> bool:
    """Whether file systems can be mounted here."""
    try:
        with mounted(folder / "trial", "size=64k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def tell(line: str, file: IO[str] | None = None) -> None:
    """Print a line at once."""
    print(line, file=file, flush=True)


def main() -> int:
    """Read the options and disturb."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--parts", default="kills,full,read-only,manifest")
    options = parser.parse_args()
    ways = [way for way in options.ways.split(",") if way in WAYS]
    if "ray" in ways and importlib.util.find_spec("ray") is None:
        tell("ray: skipped, it is not installed")
        ways.remove("ray")
    began = time.monotonic()
    for name in LIBRARIES:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = make_photos(folder / "photos", options.items)
        campaign = Campaign(folder, rows, ways, random.Random(options.seed))
        tell(f"{campaign.count} pictures, {len(BROKEN)} broken; ways: {', '.join(ways)}")
        parts: dict[str, Callable[[], None]] = {
            "kills": lambda: campaign.kills(options.moments),
            "full": campaign.full_disk,
            "read-only": campaign.read_only,
            "manifest": campaign.changed_manifest,
        }
        mounts = can_mount(folder)
        for name in options.parts.split(","):
            if name in {"full", "read-only"} and not mounts:
                tell(f"{name}: skipped, no file system can be mounted here")
                continue
            parts[name]()
    kills = ", ".join(f"{count} {name}" for name, count in sorted(campaign.killed.items()))
    tell(
        f"{sum(campaign.killed.values())} kills ({kills}), {campaign.starts} starts in "
        f"{time.monotonic() - began:.0f} s; largest difference {campaign.worst} of 255"
    )
    for each in campaign.wrong:
        tell(f"WRONG {each}", sys.stderr)
    tell("nothing lost, nothing twice, nothing half written" if not campaign.wrong else "FAILED")
    return bool(campaign.wrong)


if __name__ == "__main__":
    sys.exit(main())

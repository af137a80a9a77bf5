"""`softpaint batch`: many photos, one after the other and each once."""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from engine.cli.app import EXIT_FAILED, app, note, say
from engine.cli.checks import announce_models
from engine.cli.command import Command, PanelCommand
from engine.cli.files import STREAM, Files
from engine.cli.options import Asked, editing, load, needed
from engine.errors import InputError
from engine.request.field import Group

if TYPE_CHECKING:
    from engine.batch.run import Progress
    from engine.batch.store import Store


class _RunsByDefault(TyperGroup):
    """A group whose command ``run`` needs no name: ``softpaint batch photos/ ...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = ["run", *(args or ["--help"])]
        return super().parse_args(ctx, args)


batches = typer.Typer(
    cls=_RunsByDefault,
    help="Edit a folder of photos, or what a manifest lists: each once, whatever stops it.",
    rich_markup_mode=None,
)
app.add_typer(batches, name="batch")

Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="The batch's folder.")]
Photos = Annotated[
    str | None, typer.Argument(metavar="PHOTOS", help="A folder of photos, or a manifest.")
]
Results = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Where the results go: a folder of their own, or an address such as s3://bucket/out.",
        metavar="FOLDER",
        rich_help_panel=str(Group.PICTURE),
    ),
]


@batches.command("run", cls=PanelCommand)
@editing
def batch(
    asked: Asked,
    photo: Photos = None,
    output: Results = None,
    masks: Annotated[
        str | None,
        typer.Option(
            help="The masks' folder, same names as the photos' (or with _mask behind them); alpha: "
            "the photos' own transparency. [default: PHOTO_mask.* beside each photo]",
            metavar="FOLDER",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes, each with its own model, one for each GPU.")
    ] = 1,
    together: Annotated[
        int, typer.Option(min=1, max=256, help="Edits that share model calls in a process.")
    ] = 8,
    tries: Annotated[
        int, typer.Option(min=1, max=100, help="For what fails and might not the next time.")
    ] = 3,
    runner: Annotated[
        str, typer.Option("--engine", help="local, or ray: on a cluster.", metavar="NAME")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Ray's: auto, or ray://HOST:10001. [default: this machine]"),
    ] = None,
    min_workers: Annotated[
        int, typer.Option(min=1, help="With ray: as many as that, and more as there is work.")
    ] = 1,
    gpus: Annotated[
        float | None,
        typer.Option(min=0, help="With ray: of each worker. [default: 1 where there are any]"),
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="With ray: of each worker.")] = 1.0,
    part: Annotated[
        int, typer.Option(min=1, help="With ray: edits that a lost worker costs at the most.")
    ] = 64,
) -> None:
    """Edit many photos: a folder of them, or a manifest (.jsonl, .csv, .parquet) of
    edits.

    Results have the photos' names, folders and formats; metadata.jsonl beside them says how each
    was made. Started again, the same command goes on where it was. A text file of a photo's name is
    its prompt. A manifest's columns are settings: image, mask or strength_map, prompt, ...

    \b
    Examples:
      softpaint batch photos/ --masks masks/ -p "a clean wall" -o out/
      softpaint batch photos/ --masks alpha -p "a meadow" --strategy inpaint9 -o out/ --workers 2
      softpaint batch edits.csv -o out/ --steps 20
      softpaint batch s3://b/edits.parquet -o s3://b/out --engine ray --address auto --workers 8
      softpaint batch status out/       # how far it is, and what failed
      softpaint batch verify out/       # every picture's bytes
      softpaint batch retry out/        # let what failed be tried again
      softpaint batch export out/ set/  # Parquet or WebDataset
    """
    from engine.batch.cluster import Cluster, run_on_cluster
    from engine.batch.edits import when_there_is_room
    from engine.batch.listing import items_of
    from engine.batch.run import run_batch
    from engine.batch.workers import Plan

    source, folder = needed(photo, "PHOTOS (a folder or a manifest)"), needed(output, "--output")
    if str(STREAM) in (source, folder):
        raise InputError("a batch is of folders and files; - is neither.")
    if runner not in {"local", "ray"}:
        raise InputError(f"--engine is local or ray, not {runner!r}.")
    _refuse_inside(source, folder)
    if asked.references:
        raise InputError("a batch takes no --ip-adapter.")
    if asked.settings.get("regions"):
        raise InputError(
            "a batch takes regions in its manifest: a column regions, each with a map beside it."
        )
    settings = _settings(asked)
    masked = bool(asked.region) or "expand" in settings
    if masks is not None and asked.region:
        raise InputError("give --masks or --mask (one for all), not both.")
    items = items_of(source, masks=masks, masked=masked)
    _check(items, settings)
    announce_models(Files(), asked.load)
    plan = Plan(folder, settings, asked.load, together)
    common: dict[str, Any] = {
        "tries": tries,
        "told": lambda text: note(text, quiet=asked.quiet),
        "progress": _Shown(quiet=asked.quiet),
    }
    if runner == "ray":
        cluster = Cluster(address, workers, min_workers, gpus, cpus, part)
        store = run_on_cluster(items, plan, cluster, **common)
    else:
        store = run_batch(items, plan, engine=lambda: load(asked.load), workers=workers, **common)
    when_there_is_room(partial(_report, store), folder, common["told"])
    note(_summary(store), quiet=asked.quiet)
    if store.failures:
        raise typer.Exit(EXIT_FAILED)


@batches.command(cls=Command)
def status(folder: Folder) -> None:
    """Say how far a batch has come, and what failed.

    \b
    Example:
      softpaint batch status out/
    """
    from engine.batch.store import Store

    store = Store.existing(folder)
    if (total := store.expected) is not None:
        say(f"{store.ended} of {total} edits have ended")
    say(_summary(store))
    for line in store.failures.values():
        say(f"{line['item']}: {line['error']}")


@batches.command(cls=Command)
def verify(folder: Folder) -> None:
    """Check every picture's bytes, and that each is there once.

    \b
    Example:
      softpaint batch verify out/
    """
    from engine.batch.store import Store

    verdict = Store.existing(folder).verify()
    for line in verdict.broken:
        say(line)
    say(f"{verdict.whole} pictures are as they were written, {len(verdict.broken)} are not")
    if verdict.broken:
        raise typer.Exit(EXIT_FAILED)


@batches.command(cls=Command)
def retry(folder: Folder) -> None:
    """Let what failed be tried again, by the same `softpaint batch` as before.

    \b
    Example:
      softpaint batch retry out/
    """
    from engine.batch.store import Store

    with Store.existing(folder) as store:
        store.take()
        count = store.forget_failures()
    say(f"{count} will be tried again; start the batch as before")


@batches.command(cls=Command)
def export(
    folder: Folder,
    output: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="A folder or an address for the files.")
    ],
    form: Annotated[
        str, typer.Option("--as", help="parquet or webdataset.", metavar="KIND")
    ] = "parquet",
    rows: Annotated[int, typer.Option(help="Pictures of a file.", min=1)] = 10_000,
) -> None:
    """Write the pictures and their prompts to files that training reads.

    \b
    Examples:
      softpaint batch export out/ dataset/                    # load_dataset("dataset/")
      softpaint batch export out/ shards/ --as webdataset
    """
    from engine.batch import export as exports
    from engine.batch.store import Store

    names = exports.export(Store.existing(folder), output, form, rows)
    say(f"{output}: {len(names)} files, {names[0]} to {names[-1]}")


class _Shown:
    """Prints a line now and then for the person who waits."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._next = 0.0

    def __call__(self, progress: Progress) -> None:
        from time import monotonic

        if monotonic() >= self._next or not progress.left:
            self._next = monotonic() + 10
            note(str(progress), quiet=self.quiet)


def _settings(asked: Asked) -> dict[str, Any]:
    """What all edits have in common; JSON-able."""
    from engine.batch.items import plain_control

    settings = {**asked.settings, **asked.options}
    settings |= {name: str(path.resolve()) for name, path in asked.region.items()}
    if any(len(several) > 1 for several in asked.controls):
        raise InputError("a batch takes one scale of a control.")
    if asked.controls:
        settings["controls"] = [plain_control(several[0]) for several in asked.controls]
    return settings


def _check(items: Any, settings: dict[str, Any]) -> None:
    """Refuse settings that no edit takes, before a model is loaded; an item's own are its own."""
    from engine.batch.edits import check_single
    from engine.batch.items import split_files, with_files
    from engine.edit.strategies import build_strategy
    from engine.request.request import EditRequest

    first = next(item for item in items if not item.error)
    prompt = {"prompt": ""} if "prompt" not in {**settings, **first.settings} else {}
    if prompt and not any("prompt" in item.settings for item in items):
        raise InputError("--prompt is missing, and no photo has one in a text file of its name.")
    shared, files = split_files(settings, "")
    own = {**prompt, **shared, **first.settings}
    try:
        request = EditRequest.read(with_files(own, {**files, **first.files}))
        check_single(request)
        if isinstance(request.strategy, str):
            build_strategy(request.strategy, request.options)
    except InputError as error:
        if not first.settings.keys() - {"prompt"}:
            raise
        raise InputError(f"{first.name}: {error}") from None  # in the words of its row


def _refuse_inside(source: str, folder: str) -> None:
    """Refuse a folder for results that is, holds or is inside the photos' own."""
    from engine.picture.source import is_address

    if is_address(source) != is_address(folder):
        return
    given: PurePath
    results: PurePath
    photos: PurePath
    if is_address(source):
        given, results = PurePosixPath(source.rstrip("/")), PurePosixPath(folder.rstrip("/"))
        photos = given.parent if given.suffix else given
    else:
        given, results = Path(source).resolve(), Path(folder).resolve()
        photos = given if Path(source).is_dir() else given.parent
    if (
        results == photos
        or results in photos.parents
        or (photos == given and photos in results.parents)
    ):
        raise InputError(
            f"--output {folder!r} and the photos would share a folder; give another one."
        )


def _report(store: Store) -> None:
    from engine.report.batch import batch_page

    page = batch_page(
        store.lines(),
        store.pictures,
        list(store.failures.values()),
        PurePath(store.drive.place).name,
    )
    store.report(page)


def _summary(store: Store) -> str:
    failed = f", {len(store.failures)} failed (failed.jsonl)" if store.failures else ""
    return f"{store.drive.place}: {store.pictures} pictures{failed}"

"""`softpaint evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.app import app, note, say
from engine.cli.checks import announce_models
from engine.cli.command import Command
from engine.cli.files import STREAM, Files
from engine.cli.options import (
    Quiet,
    given,
    load,
    loading,
    names_in,
)
from engine.cli.pairs import parse_options
from engine.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from engine.evaluate import Case, Suite, Variant

_TASKS = ("removal", "insertion", "recolour", "outpaint")
_PAGE, _TABLE = "index.html", "results.csv"
_PRINTED = (
    *("untouched", "seam", "colour_ring", "colour_inside", "saturation_loss", "colour_moved"),
    *("strength_rank", "psnr_inside", "prompt", "lpips", "lpips_outside", "clip", "seconds"),
)


@app.command(cls=Command)
@loading
def evaluate(
    *,
    suite: Annotated[
        str, typer.Option(help="pocket, or a folder in BrushBench's layout.", metavar="SUITE")
    ] = "pocket",
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between. [default: removal,insertion,recolour,outpaint; "
            "of a folder: all that it has]"
        ),
    ] = None,
    first_seed: Annotated[
        int, typer.Option(min=0, help="The pocket world's first scene; below 1000000 is training.")
    ] = 1_050_000,
    count: Annotated[int, typer.Option(min=1, help="Scenes for each task.")] = 200,
    strategies: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between, each with settings of its own if need be: "
            "blend:feather=8. [default: all that the model can run, remove in removal]"
        ),
    ] = None,
    peers: Annotated[
        str | None, typer.Option(help="diffusers: its own pipelines on the same weights.")
    ] = None,
    json_: Annotated[
        Path | None,
        typer.Option("--json", help="Means and medians, for other programs.", metavar="FILE"),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The report's folder.", metavar="FOLDER")
    ] = Path("report"),
    lpips: Annotated[
        str | None,
        typer.Option(
            help="Also LPIPS: alex, squeeze or vgg. Wants softpaint[metrics] and torchvision's "
            "weights.",
            metavar="NET",
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(help="Also CLIP scores, by this model: a folder or hub id.", metavar="MODEL"),
    ] = None,
    worst_by: Annotated[
        str | None, typer.Option(help="The metric that ranks the worst cases.", metavar="METRIC")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    guidance: Annotated[float, typer.Option(min=0, help="How strictly prompts are followed.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Case i of a task uses seed + i.")] = 0,
    scheduler: Annotated[
        str | None, typer.Option(help="For all, peers too. [default: the model's]")
    ] = None,
    size: Annotated[
        int, typer.Option(min=64, help="Side of the pocket scenes; real models want 1024.")
    ] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Scenes that share model calls.")] = 16,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with its own model.")] = 1,
    loads: dict[str, Any],
    quiet: Quiet = False,
) -> None:
    """Measure strategies over many edits whose right answers are known.

    Writes a web page, a CSV and the pictures into a folder, and prints tables of means. An
    interrupted run goes on where it was, and finished pictures are not made again when scenes,
    tasks, strategies, --lpips or --clip are added.

    \b
    Example:
      softpaint evaluate --count 20 --tasks removal --strategies blend,differential
      softpaint evaluate --count 200 --peers diffusers --workers 2 --json means.json -o report
      softpaint evaluate --suite BrushBench --model ./sdxl-base --count 50
    """
    from engine.evaluate import (
        Judges,
        Plan,
        Store,
        choose,
        judge,
        markdown,
        open_suite,
        rows_csv,
        summary_json,
    )
    from engine.evaluate import evaluate as run
    from engine.picture.metrics import get_metric
    from engine.picture.write import write_text
    from engine.report.evaluation import evaluation_page
    from engine.solvers.names import check_scheduler

    if size % 8:
        raise InputError(f"--size must be a multiple of 8, not {size}.")
    if peers not in {None, "diffusers"}:
        raise UnknownNameError("peer", str(peers), ["diffusers"])
    if worst_by is not None:
        get_metric(worst_by)
    check_scheduler(scheduler)
    variants = [_variant(text) for text in names_in(strategies)] or None
    opened = open_suite(suite, first_seed=first_seed, size=size)
    cases = _cases(opened, names_in(tasks), count)
    plan = Plan(
        suite=suite,
        size=size,
        first_seed=first_seed,
        steps=steps,
        guidance=guidance,
        seed=seed,
        scheduler=scheduler,
        load=loads,
    )
    files = Files()
    announce_models(files, given(**loads, clip=clip))
    if Path(suite).is_dir():
        files.uses("suite", Path(suite))
    _announce_report(files, output, json_)
    judges = Judges(lpips, clip)
    loaded = judges.load(loads.get("device", "cpu"))
    store = Store(output, plan.settings())
    engine = load(loads)
    chosen, compared = choose(engine, variants, diffusers=peers is not None)
    rows = run(
        engine,
        plan,
        cases,
        variants=chosen,
        peers=compared,
        store=store,
        batch=batch,
        workers=workers,
        say=lambda text: note(text, quiet=quiet),
    )
    rows = judge(rows, cases, store, judges, loaded)
    write_text(output / _TABLE, rows_csv(rows))
    write_text(
        output / _PAGE,
        evaluation_page(rows, cases, store.image, store.settings, worst_by=worst_by),
    )
    if json_ is not None:
        write_text(json_, summary_json(rows))
    say(markdown(rows, _PRINTED))
    note(str(output / _PAGE), quiet=quiet)


def _announce_report(files: Files, folder: Path, json_: Path | None) -> None:
    """Refuse a report in place of what is read. The folder itself may not be there yet."""
    if json_ == STREAM:
        raise InputError("--json is a file; the means go to standard output as a table anyway.")
    if folder.is_dir():
        for name in (_PAGE, _TABLE):
            files.writes("--output", folder / name, image=False)
    if json_ is not None:
        files.writes("--json", json_, image=False)


def _variant(text: str) -> Variant:
    """``NAME`` or ``NAME:key=value:key=value``."""
    from engine.evaluate import Variant

    strategy, *pairs = text.split(":")
    variant = Variant(text, strategy, parse_options(pairs, f"--strategies {strategy}:"))
    variant.check()
    return variant


def _cases(suite: Suite, tasks: list[str], count: int) -> dict[str, list[Case]]:
    if not tasks:
        tasks = list(_TASKS) if suite.name == "pocket" else list(suite.tasks)
    cases = {task: suite.cases(task, count) for task in tasks}
    if empty := [task for task, each in cases.items() if not each]:
        raise InputError(f"suite {suite.name!r} has no cases for task {empty[0]!r}.")
    return cases

"""`softpaint edit`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.app import app, note
from engine.cli.checks import check, opened
from engine.cli.command import PanelCommand
from engine.cli.files import STREAM, Files, save
from engine.cli.options import Asked, editing, load
from engine.errors import InputError, OutputError, SoftpaintWarning

if TYPE_CHECKING:
    from controls import Control
    from engine.request.record import EditRecord
    from engine.request.result import EditResult
    from engine.types import Snapshot


@app.command(cls=PanelCommand)
@editing
def edit(
    asked: Asked,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A result: repeat its edit, or with another PHOTO and --mask do the same there; "
            "other options override. Of other programs' pictures what is understood.",
            metavar="PNG",
        ),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Load the models that the --from result names, too."),
    ] = False,
    metadata: Annotated[
        str | None,
        typer.Option(
            help="a1111: the settings as stable-diffusion-webui writes them, too (in a PNG anyway "
            "unless the photo has its own); invokeai: as InvokeAI does, in a PNG; softpaint: ours "
            "alone.",
            metavar="NAME",
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(help="A small picture, written anew after every step.", metavar="FILE"),
    ] = None,
    preview_model: Annotated[
        str | None,
        typer.Option(
            help="A tiny VAE that draws it, a folder or hub id; without one, colours only."
        ),
    ] = None,
) -> None:
    """Repaint part of a picture.

    The result is as large as the picture, and pixels of strength 0 come back as they were. A PNG
    remembers every setting: `softpaint show` prints them and `--from` repeats the edit. `-` in
    place of a file is standard input or output.

    \b
    Examples:
      softpaint edit photo.png --mask mask.png --prompt "a red house" -o out.png
      softpaint edit photo.png -s map.png -p "snow" -o out.png --model ./sdxl-base --steps 40
      softpaint edit photo.png -m mask.png -p "a barn" -o out.png --control canny=edges.png:0.8
      softpaint edit --from out.png --seed 8 -o other.png
      softpaint edit new.png -m new-mask.png --from out.png -o other.png
      softpaint edit photo.png -m mask.png -p "a boat" -o out.png --preview now.png
    """
    if preview_model is not None and preview is None:
        raise InputError("--preview-model draws the --preview, and there is none.")
    if trust and from_ is None:
        raise InputError("--trust is about the models that a --from result names; there is none.")
    from engine.request.save import check_metadata

    check_metadata(metadata)
    files = Files()
    watch = Watch(preview, preview_model) if preview is not None else None
    if from_ is None:
        _edit(asked, files, watch, pick=None, metadata=metadata)
        return
    from engine.cli.recipe import Recipe

    recipe = Recipe.read(from_, files)
    repeated, pick = recipe.applied(asked, files, trust=trust)
    from engine.edit.unused import UnusedSettingWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedSettingWarning)  # who made the record was told
        result = _edit(repeated, files, watch, pick=pick, metadata=metadata)
    _note_differences(recipe.record, result, quiet=asked.quiet)


class Watch:
    """Writes previews, and goes on without them where that fails.

    Args:
        output: where they go.
        model: the tiny VAE that draws them.
    """

    def __init__(self, output: Path, model: str | None) -> None:
        self.output = output
        self.model = model
        self._failed = False

    def announce(self, files: Files, count: int) -> None:
        """Refuse what is no place for previews of ``count`` pictures; one that cannot be written
        is no reason to stop.
        """
        if self.output == STREAM:
            raise InputError("--preview is written anew after every step; give a file, not -.")
        if self.model is not None and Path(self.model).exists():
            files.uses("preview model", Path(self.model))
        from engine.request.save import numbered

        for path in numbered(self.output, count):
            try:
                files.writes("--preview", path)
            except OutputError as error:
                self._give_up(error)

    def callback(self, count: int) -> Callable[[Snapshot], None]:
        """Writes what a snapshot of one of ``count`` pictures shows."""
        from engine.picture.write import save_image
        from engine.request.save import numbered

        outputs = numbered(self.output, count)

        def write(shot: Snapshot) -> None:
            if self._failed:
                return
            try:
                save_image(shot.preview(), outputs[shot.image])
            except OutputError as error:
                self._give_up(error)

        return write

    def _give_up(self, error: OutputError) -> None:
        if not self._failed:
            self._failed = True
            warnings.warn(SoftpaintWarning(f"no previews: {error}"), stacklevel=2)


def _edit(
    asked: Asked, files: Files, watch: Watch | None, *, pick: int | None, metadata: str | None
) -> EditResult:
    """Run one edit and write all of its pictures, or only the one with the index ``pick``."""
    from engine.edit.advice import MOST_STARTS as MOST
    from engine.edit.strategies import named_in
    from engine.request.save import check_metadata, write_pictures

    asked = opened(asked, files)
    settings = dict(asked.settings)
    strategy = settings.pop("strategy", None)
    controls = _one_each(asked.controls)
    output = asked.need()[1]
    advised = strategy == "auto"
    strategies = [] if advised else named_in(strategy or "differential")
    chosen = {} if strategy is None else {"strategy": strategy}
    check(asked, strategies, {**settings, **chosen}, output)
    prompt = settings.get("prompt")  # of a record that is repeated there may be several
    count = max(settings.get("num_images", 1), settings.get("keep", 1))
    count *= len(prompt) if isinstance(prompt, list) else 1
    starts = max(count, settings.get("candidates", MOST if advised else 1), len(strategies))
    outputs = _announced(output, files, count if pick is None else 1)
    check_metadata(metadata, outputs)
    if watch is not None:
        watch.announce(files, starts)
    engine = load(asked.load, quiet=asked.quiet)
    if watch is not None and watch.model is not None:
        engine.preview_with(watch.model)
    if advised:
        told = engine.advise(image=asked.photo, **asked.region, **settings)
        note("\n".join(told.lines()), quiet=asked.quiet)
    result = engine.edit(
        image=asked.photo,
        **chosen,
        controls=controls,
        ip_adapter_image=asked.references or None,
        **asked.region,
        **settings,
        **asked.options,
        callback=watch.callback(starts) if watch else None,
        progress=False if asked.quiet else None,
    )
    if result.candidates:
        note(result.ranking(), quiet=asked.quiet)
    indices = range(len(result.seeds)) if pick is None else [pick]
    outputs = outputs[: len(indices)]
    write_pictures(result, indices, outputs, save, metadata=metadata)
    for index, path in zip(indices, outputs, strict=True):
        seconds = result.timings["total"]
        name = "standard output" if path == STREAM else path
        note(f"{name}  (seed {result.seeds[index]}, {seconds:.1f} s)", quiet=asked.quiet)
    return result


def _announced(output: Path, files: Files, count: int) -> list[Path]:
    if output == STREAM and count > 1:
        raise InputError(f"{count} pictures do not fit into standard output; give a file's name.")
    from engine.request.save import numbered

    outputs = numbered(output, count)
    for path in outputs:
        files.writes("--output", path)
    return outputs


def _one_each(controls: Sequence[Sequence[Control]]) -> list[Control]:
    for several in controls:
        if len(several) > 1:
            scales = ", ".join(f"{each.scale:g}" for each in several)
            raise InputError(
                f"{several[0]} has several scales ({scales}); an edit takes one, "
                "`softpaint compare` draws a picture for each."
            )
    return [each for (each,) in controls]


def _note_differences(record: EditRecord, result: EditResult, *, quiet: bool) -> None:
    """Say what a repeated edit was made with that is not the same here."""
    for name in ("device", "dtype", "versions"):
        then, now = record.settings.get(name), result.settings.get(name)
        if then is not None and then != now:
            note(f"made with {name} {then}, repeated with {now}: pixels may differ", quiet=quiet)

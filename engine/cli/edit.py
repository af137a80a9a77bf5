"""`softpaint edit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.app import app, note
from engine.cli.options import Asked, check, editing, given, load
from engine.errors import InputError

if TYPE_CHECKING:
    from controls import Control
    from engine.request.record import EditRecord
    from engine.request.result import EditResult
    from engine.types import Snapshot


@app.command()
@editing
def edit(
    asked: Asked,
    strategy: Annotated[
        str | None, typer.Option(help="See `softpaint strategies`. [default: differential]")
    ] = None,
    num_images: Annotated[int | None, typer.Option(help="How many results. [default: 1]")] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A result: repeat its edit; other options override.", metavar="PNG"
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
    remembers every setting: `softpaint show` prints them and `--from` repeats the edit.

    \b
    Examples:
      softpaint edit photo.png --mask mask.png --prompt "a red house" -o out.png
      softpaint edit photo.png -s map.png -p "snow" -o out.png --model ./sdxl-base --steps 40
      softpaint edit photo.png -m mask.png -p "a barn" -o out.png --control canny=edges.png:0.8
      softpaint edit --from out.png --seed 8 -o other.png
      softpaint edit photo.png -m mask.png -p "a boat" -o out.png --preview now.png
    """
    asked.settings |= given(strategy=strategy, num_images=num_images)
    if preview_model is not None and preview is None:
        raise InputError("--preview-model draws the --preview, and there is none.")
    watch = Watch(preview, preview_model) if preview is not None else None
    if from_ is None:
        _edit(asked, watch, pick=None)
        return
    from engine.request.record import EditRecord

    record = EditRecord.read(from_)
    # of several, this one; they are made together, to the same bits
    alone = "seed" not in asked.settings and num_images is None
    repeated = _repeated(record, asked, beside=from_)
    result = _edit(repeated, watch, pick=record.index if alone else None)
    _note_differences(record, result, quiet=asked.quiet)


@dataclass(frozen=True)
class Watch:
    """Where previews go, and the tiny VAE that draws them."""

    output: Path
    model: str | None

    def check(self, taken: Sequence[Path | None]) -> None:
        """Refuse what cannot be written, or is one of the edit's own files."""
        from engine.picture.write import check_writable

        check_writable(self.output)
        if self.output.resolve() in {each.resolve() for each in taken if each is not None}:
            raise InputError(f"{self.output} is another file of this edit; give another --preview.")

    def callback(self, count: int) -> Callable[[Snapshot], None]:
        """Writes what a snapshot of one of ``count`` pictures shows."""
        from engine.picture.write import save_image

        outputs = _numbered(self.output, count)
        return lambda shot: save_image(shot.preview(), outputs[shot.image])


def _repeated(record: EditRecord, asked: Asked, *, beside: Path) -> Asked:
    """The recorded edit with what is asked for in its place."""
    edit = dict(record.edit)
    options = edit.pop("options", {})
    if asked.settings.get("strategy", edit.get("strategy")) != edit.get("strategy"):
        options = {}
    return replace(
        asked,
        photo=record.image.find(kind="image", beside=beside, given=asked.photo),
        region=record.find_region(asked.region, beside=beside),
        settings={**edit, **asked.settings},
        controls=asked.controls or [[each] for each in record.find_controls(beside=beside)],
        options={**options, **asked.options},
        load={**record.load, **asked.load},
    )


def _edit(asked: Asked, watch: Watch | None, pick: int | None) -> EditResult:
    """Run one edit and write all of its pictures, or only the one with the index ``pick``."""
    from engine.request.record import EditRecord, InputFile, RecordedControl

    photo, output = asked.need()
    settings = dict(asked.settings)
    count = settings.get("num_images", 1)
    outputs = _numbered(output, count) if pick is None else [output]
    strategy = settings.pop("strategy", "differential")
    controls = _one_each(asked.controls)
    check(asked, [strategy], outputs, settings)
    if watch is not None:
        watch.check([photo, *asked.region.values(), *outputs])
    engine = load(asked.load)
    if watch is not None and watch.model is not None:
        engine.preview_with(watch.model)
    result = engine.edit(
        image=photo,
        strategy=strategy,
        controls=controls,
        **asked.region,
        **settings,
        **asked.options,
        callback=watch.callback(count) if watch else None,
        progress=False if asked.quiet else None,
    )
    indices = range(count) if pick is None else [pick]
    records = [
        EditRecord.of(
            result,
            index=index,
            image=InputFile.of(photo, beside=path),
            region={kind: InputFile.of(each, beside=path) for kind, each in asked.region.items()},
            controls=[RecordedControl.of(each, beside=path) for each in controls],
            load=_portable(asked.load),
            scheduler=settings.get("scheduler"),
        )
        for index, path in zip(indices, outputs, strict=True)
    ]
    _write_all([result.images[index] for index in indices], outputs, records)
    for index, path in zip(indices, outputs, strict=True):
        seconds = result.timings["total"]
        note(f"{path}  (seed {result.seeds[index]}, {seconds:.1f} s)", quiet=asked.quiet)
    return result


def _one_each(controls: Sequence[Sequence[Control]]) -> list[Control]:
    for several in controls:
        if len(several) > 1:
            scales = ", ".join(f"{each.scale:g}" for each in several)
            raise InputError(
                f"{several[0]} has several scales ({scales}); an edit takes one, "
                "`softpaint compare` draws a picture for each."
            )
    return [each for (each,) in controls]


def _numbered(output: Path, count: int) -> list[Path]:
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{index}{output.suffix}") for index in range(count)]


def _note_differences(record: EditRecord, result: EditResult, *, quiet: bool) -> None:
    """Say what a repeated edit was made with that is not the same here."""
    for name in ("device", "dtype", "versions"):
        then, now = record.settings.get(name), result.settings.get(name)
        if then != now:
            note(f"made with {name} {then}, repeated with {now}: pixels may differ", quiet=quiet)


def _portable(load: dict[str, Any]) -> dict[str, Any]:
    """Model folders as absolute paths, so that the record holds from everywhere."""
    from engine.models.checkpoints import CHECKPOINTS

    return {
        name: str(Path(value).resolve())
        if name in {"model", "inpaint_model"} and value not in CHECKPOINTS and Path(value).exists()
        else value
        for name, value in load.items()
    }


def _write_all(
    images: Sequence[Any], outputs: Sequence[Path], records: Sequence[EditRecord]
) -> None:
    """Write every image or none."""
    from engine.picture.write import save_image

    written: list[Path] = []
    try:
        for image, path, record in zip(images, outputs, records, strict=True):
            save_image(image, path, metadata=record.metadata())
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise

"""What a training leaves on disk until its file is there: settings, state, log, sheets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from engine.errors import InputError, ModelError
from engine.picture.commit import Commit
from engine.picture.write import save_image, write_text

SETTINGS, STATE, LOG = "settings.json", "state.pt", "log.jsonl"


class RunFolder:
    """The folder of one training, beside its output.

    Args:
        output: the file that the training will write; the folder is ``NAME.tune`` beside it.
        settings: all that decides what is learnt, as JSON holds it.

    Raises:
        InputError: a training of other settings has begun there.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self.path = output.with_name(f"{output.stem}.tune")
        self.settings = json.loads(json.dumps(settings))
        self._check()

    def _check(self) -> None:
        place = self.path / SETTINGS
        if not place.is_file():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise InputError(f"{self.path} is there and holds no training; give another name.")
            return
        try:
            before = json.loads(place.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{place} cannot be read: {error}; remove {self.path}.") from error
        if before == self.settings:
            return
        names = [k for k in {**before, **self.settings} if before.get(k) != self.settings.get(k)]
        told = ", ".join(
            f"{name} {before.get(name)!r}, not {self.settings.get(name)!r}"
            if not isinstance(self.settings.get(name), list | dict)
            else f"other {name}"
            for name in names
        )
        raise InputError(
            f"{self.path} is a training with other settings ({told}); give those, another output, "
            "or remove the folder."
        )

    def open(self) -> None:
        """Make the folder, if it is not there yet."""
        self.path.mkdir(exist_ok=True)
        write_text(self.path / SETTINGS, json.dumps(self.settings, indent=1) + "\n")

    def load(self) -> dict[str, Any] | None:
        """The state that the training goes on from; None at its beginning.

        Raises:
            ModelError: it is damaged.
        """
        import torch

        place = self.path / STATE
        if not place.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(place, map_location="cpu", weights_only=True)
        except Exception as error:  # of pickles that are cut short or none torch raises anything
            raise ModelError(f"{place} is damaged; remove {self.path}.") from error
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state, whole or not at all."""
        import torch

        buffer = BytesIO()
        torch.save(dict(state), buffer)
        with Commit() as together:
            together.write(self.path / STATE, partial(_fill, buffer))

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def sheet(self, step: int, picture: Any) -> Path:
        """Write a sample sheet; where it is."""
        place = self.path / f"samples-{step:06d}.png"
        save_image(picture, place)
        return place

    def finish(self) -> None:
        """Remove the state: the output is there. Log and sheets stay."""
        (self.path / STATE).unlink(missing_ok=True)


def _fill(buffer: BytesIO, file: IO[bytes]) -> None:
    file.write(buffer.getbuffer())

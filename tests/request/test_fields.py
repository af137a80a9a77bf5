"""The table of settings: a line of it is all that a setting needs."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from typing import Literal, get_args, get_origin

import pytest
from PIL import Image

from engine import InpaintEngine, InputError
from engine.cli import run
from engine.cli.options import FIELDS
from engine.request.field import REQUIRED, Range
from engine.request.request import EditRequest
from engine.request.schema import json_schema
from engine.solvers.names import list_schedulers
from tests.kit import tiny

NEW = """
    sharpen: Annotated[
        float, Group.FINISH, Help("How much it is sharpened."), Range(0, 9), Option(), Recorded()
    ] = 1.5
    image: Annotated["""

EVERYWHERE = """
import importlib.util, inspect, sys
from pathlib import Path

spec = importlib.util.find_spec("engine.request.fields")
source = Path(spec.origin).read_text(encoding="utf-8")
new = source.replace(chr(10) + "    image: Annotated[", NEW, 1)
assert new != source
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
exec(compile(new, spec.origin, "exec"), module.__dict__)

from engine import InpaintEngine, InputError
from engine.cli import run
from engine.request.record import EditRecord
from engine.request.request import EditRequest
from engine.request.schema import json_schema

assert inspect.signature(InpaintEngine.edit).parameters["sharpen"].default == 1.5
assert "sharpen: How much it is sharpened. From 0 to 9." in InpaintEngine.edit.__doc__
assert json_schema()["properties"]["sharpen"] == {
    "type": "number", "minimum": 0, "maximum": 9, "default": 1.5,
    "description": "How much it is sharpened.", "x-group": "Fill, colours and paste",
}
try:
    EditRequest(image="photo.png", mask="mask.png", prompt="", sharpen=11)
except InputError as error:
    assert "sharpen must be from 0 to 9, not 11" in str(error)
else:
    raise AssertionError("out of range")
assert run(["compare", "--help"]) == 0
common = ["--quiet", "--steps", "1", "-o"]
first = ["edit", "photo.png", "-m", "mask.png", "-p", "a boat", "--sharpen", "3", *common]
assert run([*first, "out.png"]) == 0
assert EditRecord.read(Path("out.png")).edit["sharpen"] == 3
assert run(["edit", "--from", "out.png", *common, "again.png"]) == 0
assert EditRecord.read(Path("again.png")).edit["sharpen"] == 3
assert EditRecord.read(Path("again.png")).settings["sharpen"] == 3
"""


def test_a_line_in_the_table_is_a_setting_everywhere(tmp_path):
    """Signature, documentation, checks, schema, command line, record and repetition, with one line
    added to the table's own text and nothing else changed.
    """
    tiny.picture().save(tmp_path / "photo.png")
    tiny.box_mask().save(tmp_path / "mask.png")
    done = subprocess.run(
        [sys.executable, "-c", f"NEW = {NEW!r}\n{EVERYWHERE}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--sharpen <float>" in done.stdout
    assert "How much it is sharpened. [default: 1.5]" in " ".join(done.stdout.split())


def test_the_signature_has_every_setting_with_its_default():
    parameters = dict(inspect.signature(InpaintEngine.edit).parameters)
    for name, field in FIELDS.items():
        parameter = parameters.pop(name)
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        required = field.default is REQUIRED
        assert parameter.default == (inspect.Parameter.empty if required else field.default)
        assert f"\n    {name}: {field.help.text.split()[0]}" in (InpaintEngine.edit.__doc__ or "")
    assert [each.kind for each in parameters.values()] == [
        inspect.Parameter.POSITIONAL_OR_KEYWORD,  # self
        inspect.Parameter.VAR_KEYWORD,
    ]


def test_type_checkers_see_the_settings(engine):
    """mypy reports an ignore that nothing needs: the calls below are errors to it."""
    photo, mask = tiny.picture(), tiny.box_mask()
    with pytest.raises(InputError, match="Did you mean 'feather'"):
        engine.edit(image=photo, mask=mask, prompt="", fether=1)
    typed: InpaintEngine = engine
    with pytest.raises(InputError, match="Did you mean 'feather'"):
        typed.edit(image=photo, mask=mask, prompt="", fether=1)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="feather must be a finite number, not 'wide'"):
        typed.edit(image=photo, mask=mask, prompt="", feather="wide")  # type: ignore[arg-type]


def test_help_lists_the_names_that_are_accepted():
    """It is written by hand, as listing them imports what --help has no time for."""
    for field in FIELDS.values():
        if field.option is None or field.help.text.startswith("Such as"):
            continue
        is_literal = get_origin(field.kind) is Literal
        names = get_args(field.kind) if is_literal else field.names.listed() if field.names else ()
        words = field.help.text.replace(",", " ").replace(".", " ").replace(":", " ").split()
        assert set(names) <= set(words), field.name


@pytest.mark.parametrize("command", ["edit", "compare"])
def test_help_stands_under_headings(command, capsys):
    assert run([command, "--help"]) == 0
    text = capsys.readouterr().out
    headings = [line[:-1] for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    wanted = ["Arguments", "What and where", "Strategy", "Model", "Denoising"]
    wanted += ["Candidates"] * (command == "edit")
    wanted += ["Canvas and cut-outs", "Fill, colours and paste", "Controls", "Options"]
    assert headings == wanted
    for field in FIELDS.values():
        if field.option is not None and command in (field.option.only or (command,)):
            flag = field.option.flags[0] if field.option.flags else f"--{field.name}"
            assert flag.split("/")[0].replace("_", "-") in text


class TestSchema:
    def test_it_is_json_and_says_what_is_needed(self):
        schema = json_schema()
        assert json.loads(json.dumps(schema)) == schema
        assert schema["required"] == ["image", "prompt"]
        assert schema["additionalProperties"] is False

    def test_ranges_and_names(self):
        properties = json_schema()["properties"]
        assert properties["num_inference_steps"]["minimum"] == 1
        assert properties["strength"]["exclusiveMinimum"] == 0
        assert properties["strength"]["maximum"] == 1
        assert properties["region"]["enum"] == ["auto", "full", "mask"]
        scheduler = {"type": "string", "examples": list_schedulers()}
        assert properties["scheduler"]["anyOf"] == [scheduler, {"type": "null"}]
        sides = properties["expand"]["anyOf"][0]
        assert (sides["minItems"], sides["maxItems"], sides["items"]["maximum"]) == (4, 4, 16384)

    def test_what_json_cannot_hold_is_left_out(self):
        assert not {"callback", "generator", "latents"} & set(json_schema()["properties"])


def test_ranges_are_told_in_words():
    assert str(Range(0, 4096)) == "from 0 to 4096"
    assert str(Range(1)) == "at least 1"
    assert str(Range(0, 1, above=True)) == "from 0 to 1 (and above 0)"
    assert str(Range(0, 1, above=True, below=True)) == "from 0 to 1 (and above 0 and below 1)"
    assert str(Range(0, 2**63 - 1)) == f"from 0 to {2**63 - 1}"


def test_a_mask_of_the_canvas_is_no_setting_of_the_record():
    request = EditRequest(image="photo.png", mask="mask.png", prompt="a boat", expand=(0, 8, 0, 0))
    recorded = request.recorded()
    assert json.loads(json.dumps(recorded)) == recorded
    assert recorded["expand"] == [0, 8, 0, 0]
    assert not {"image", "mask", "callback", "seed"} & set(recorded)


def test_the_picture_may_be_any_picture():
    EditRequest(image=Image.new("RGB", (8, 8)), mask=Image.new("L", (8, 8)), prompt="")

"""IP-Adapters on the command line: loaded with the encoder beside them, recorded, repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from engine import InpaintEngine, ModelError
from engine.cli import run
from engine.request.record import EditRecord
from tests.kit import tiny, tiny_controls

EDIT = "edit photo.png -m mask.png -p tent --steps 1 --seed 3 --device cpu "
ADAPTER = "ip.safetensors"


def lay(folder: Path, unet, width: int = 24, plus: bool = False) -> None:
    """An adapter's file, and its image encoder's folder beside it."""
    made = tiny_controls.ip_adapter_plus(unet) if plus else tiny_controls.ip_adapter(unet)
    flat = {f"{table}.{name}": each for table, held in made.items() for name, each in held.items()}
    save_file(flat, folder / ADAPTER)
    tiny_controls.image_reader(width)["image_encoder"].save_pretrained(folder / "image_encoder")


@pytest.fixture
def go(files, capsys, monkeypatch, pocket):
    """Run a command in the files' folder, where an adapter for the pocket model and a style lie."""
    monkeypatch.chdir(files.folder)
    lay(files.folder, pocket.pipe.unet)
    tiny.picture(48, seed=21).save(files.folder / "style.png")
    left = np.zeros_like(pixels("mask.png"))
    left[:, : left.shape[1] // 2] = 255
    Image.fromarray(left).save(files.folder / "left.png")

    def run_line(line: str) -> tuple[int, str]:
        code = run(line.split())
        said = capsys.readouterr()
        return code, said.err + said.out

    return run_line


def pixels(name: str) -> np.ndarray:
    with Image.open(name) as image:
        return np.asarray(image)


def test_a_reference_is_read_recorded_and_repeated(go, files):
    line = f"--ip-adapter {ADAPTER}=style.png:0.7 --ip-adapter-mask {ADAPTER}=left.png"
    code, said = go(EDIT + line + " -o a.png")
    assert code == 0, said
    record = EditRecord.read("a.png")
    assert record.load["ip_adapter"] == [str((files.folder / ADAPTER).resolve())]
    ((reference,),) = record.references
    assert [file and file.path for file in (reference.image, reference.mask)] == [
        "style.png",
        "left.png",
    ]
    assert reference.scale == 0.7
    assert "reference 1 mask" in go("show a.png")[1]

    code, said = go("edit --from a.png -o b.png")
    assert code == 2
    assert "--ip-adapter" in said
    code, said = go("edit --from a.png --trust -o b.png")
    assert code == 0, said
    assert np.array_equal(pixels("a.png"), pixels("b.png"))

    code, said = go(f"edit --from a.png --ip-adapter {ADAPTER}=style.png:0 -o off.png")
    assert code == 0, said
    assert go(EDIT + "-o plain.png")[0] == 0
    assert np.array_equal(pixels("off.png"), pixels("plain.png"))
    assert not np.array_equal(pixels("a.png"), pixels("plain.png"))

    Path("style.png").write_bytes(Path("photo.png").read_bytes())
    code, said = go("edit --from a.png --trust -o c.png")
    assert code == 2
    assert "style.png is not the reference picture" in said


@pytest.mark.parametrize(
    ("options", "words", "code"),
    [
        (f"--ip-adapter {ADAPTER}", "FILE=PICTURE[:SCALE] is expected", 2),
        ("--ip-adapter gone.safetensors=style.png", "there is no file gone.safetensors", 1),
        (f"--ip-adapter {ADAPTER}=gone.png", "gone.png", 2),
        (f"--ip-adapter-mask {ADAPTER}=left.png", "there is no --ip-adapter", 2),
        (f"--ip-adapter {ADAPTER}=style.png -o style.png", "style.png", 2),
    ],
)
def test_bad_ones_are_refused_and_nothing_is_written(go, options, words, code):
    given = options if " -o " in options else options + " -o x.png"
    before = Path("style.png").read_bytes()
    told, said = go(EDIT + given)
    assert told == code, said
    assert words in said
    assert "unexpected" not in said
    assert not Path("x.png").exists()
    assert Path("style.png").read_bytes() == before


def test_the_encoder_that_fits_is_found_or_missed_by_name(tmp_path, pocket):
    own, other = tmp_path / "sdxl_models", tmp_path / "models"
    for folder, width in ((own, 20), (other, 24)):
        folder.mkdir()
        lay(folder, pocket.pipe.unet, width=width)
    hidden = other.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"projection_dim 24.*not beside it.*is another"):
        InpaintEngine.from_pretrained(device="cpu", ip_adapter=own / ADAPTER)
    # In the authors' repository both kinds lie near: the one that fits is taken.
    hidden.rename(other)
    engine = InpaintEngine.from_pretrained(device="cpu", ip_adapter=own / ADAPTER)
    assert engine.pipe.image_encoder.config.projection_dim == 24
    assert engine.load["ip_adapter"] == [str((own / ADAPTER).resolve())]


def test_a_file_that_is_no_adapter_is_refused_by_name(tmp_path):
    save_file(tiny_controls.ip_adapter(tiny.modules(4)["unet"])["image_proj"], tmp_path / ADAPTER)
    with pytest.raises(ModelError, match="no IP-Adapter"):
        InpaintEngine.from_pretrained(device="cpu", ip_adapter=str(tmp_path / ADAPTER))

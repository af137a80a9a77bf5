"""Draws the house from the code itself: rooms by layer, and who imports whom.

    python -m tests.kit.house -o examples/house.svg

Layers are the import contract's (``[tool.importlinter]`` in pyproject.toml), arrows the imports
that run when a module is used, counted by the modules that have them. Standard library only.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tomllib
from collections import Counter
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engine", "strategies", "controls")
WIDTH, ROW, BOX, HIGH = 1120, 112, 176, 52
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1c2733 } .small { font-size: 11px; fill: #5b6b7a }
rect { fill: #eef4fa; stroke: #7d99b3; rx: 7 } path { fill: none; stroke: #7d99b3; opacity: .55 }
@media (prefers-color-scheme: dark) {
  text { fill: #e8eef4 } .small { fill: #a9b8c6 } rect { fill: #22303d; stroke: #6d8aa5 }
}
"""


def layers() -> list[list[str]]:
    """The contract's layers, the highest first."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    (contract,) = (each for each in contracts if each["id"] == "layers")
    return [
        [room.strip(" ()") for room in line.replace("|", ":").split(":")]
        for line in contract["layers"]
    ]


def modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }


def imports(path: Path) -> set[str]:
    """What a module imports when it runs, functions included, type checking left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def room_of(name: str, rooms: list[str]) -> str | None:
    """The room that a module or name lies in: the longest that is a beginning of it."""
    fitting = [room for room in rooms if name == room or name.startswith(f"{room}.")]
    return max(fitting, key=len, default=None)


def arrows(rooms: list[str]) -> Counter[tuple[str, str]]:
    """How many modules of a room import another room."""
    counted: Counter[tuple[str, str]] = Counter()
    for name, path in modules().items():
        own = room_of(name, rooms)
        targets = {room_of(target, rooms) for target in imports(path)} - {own, None}
        counted.update((own, target) for target in targets if own and target)
    return counted


def svg() -> str:
    """The drawing."""
    rows = layers()
    rooms = [room for row in rows for room in row]
    files = modules()
    places = {
        room: ((i + 0.5) * WIDTH / len(row), 40 + ROW * level)
        for level, row in enumerate(rows)
        for i, room in enumerate(row)
    }
    parts = [
        f'<path d="M{x0:.0f} {y0 + HIGH:.0f} C{x0:.0f} {y0 + HIGH + 40:.0f} {x1:.0f} {y1 - 40:.0f} '
        f'{x1:.0f} {y1:.0f}" stroke-width="{0.6 + count**0.5 / 2:.1f}"/>'
        for (one, two), count in sorted(arrows(rooms).items())
        for (x0, y0), (x1, y1) in [(places[one], places[two])]
    ]
    for room, (x, y) in places.items():
        own = [path for name, path in files.items() if room_of(name, rooms) == room]
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in own)
        size = f"{len(own)} module{'s' * (len(own) != 1)}, {lines} lines"
        parts += [
            f'<rect x="{x - BOX / 2:.0f}" y="{y}" width="{BOX}" height="{HIGH}"/>',
            f'<text x="{x:.0f}" y="{y + 22}" text-anchor="middle">{escape(room)}</text>',
            f'<text class="small" x="{x:.0f}" y="{y + 40}" text-anchor="middle">{size}</text>',
        ]
    height = 40 + ROW * len(rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}"><style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def main() -> None:
    """Write the drawing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("house.svg"))
    output = parser.parse_args().output
    output.write_text(svg(), encoding="utf-8")
    sys.stdout.write(f"{output}\n")


if __name__ == "__main__":
    main()

"""``python -m tests.fuzz --count 500``: many cases, and what was wrong with any of them."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

for _name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
    os.environ.setdefault(_name, "error")

from tests.fuzz.cases import make  # noqa: E402 - after the libraries are told to be quiet
from tests.fuzz.judge import judged  # noqa: E402 - after the libraries are told to be quiet
from tests.kit import tiny  # noqa: E402 - after the libraries are told to be quiet


def main() -> int:
    """Run cases; the number of those that ended wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="the first case's seed")
    chosen = parser.parse_args()
    wrong = 0
    with tiny.loaded() as engine:
        for seed in range(chosen.first, chosen.first + chosen.count):
            with tempfile.TemporaryDirectory() as folder:
                case = make(seed, Path(folder))
                if faults := judged(case, Path(folder), engine):
                    wrong += 1
                    sys.stdout.write(f"{case}\n    {'; '.join(faults)}\n")
    sys.stdout.write(f"{chosen.count} cases from seed {chosen.first}, {wrong} ended wrongly\n")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())

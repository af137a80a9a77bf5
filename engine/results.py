"""What an edit and a comparison give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image


@dataclass(frozen=True)
class EditResult:
    """The pictures of one edit and everything that was used to make them."""

    images: Any
    """A list of Pillow images; for ``output_type="np"`` a float32 array b h w 3 in [0, 1]; for
    ``"latent"`` the latents."""
    latents: torch.Tensor
    """b c h/cell w/cell, of the padded picture."""
    seeds: list[int | None]
    """One for each picture; None where the caller's own generator drew."""
    settings: dict[str, Any]
    """Every setting that was used, defaults included; JSON-able."""
    timings: dict[str, float]
    """Seconds by phase: text, encode, denoise, decode, paste, total."""
    model_calls: int
    """Network evaluations, counted for each picture (guided ones count once)."""
    skipped_calls: int = 0
    """Those left out because all pixels were still held."""
    reused_calls: int = 0
    """Those whose results a session had."""


@dataclass(frozen=True)
class Comparison:
    """The same picture, prompt and seed through several strategies."""

    results: Mapping[str, EditResult]
    original: Image.Image
    strength_map: NDArray[np.float32]
    """H W in [0, 1], 1 = repaint."""
    seconds: float
    """For all of them together: they share model calls."""
    per_row: int | None = None
    """How many results stand in a row of the sheet; None is all."""

    def grid(self) -> Image.Image:
        """A labelled sheet: the original with its map laid over, then each strategy's picture."""
        import numpy as np
        from PIL import Image

        from engine.sheet import labelled_grid, overlay_map

        rgb = self.original.convert("RGB")
        first = overlay_map(np.asarray(rgb), self.strength_map)
        rows = []
        count = max(len(result.seeds) for result in self.results.values())
        named = list(self.results.items())
        per_row = self.per_row or len(named)
        for i in range(count):
            for start in range(0, len(named), per_row):
                row: list[tuple[Image.Image | None, str]] = [
                    (rgb, "original"),
                    (first, "strength map"),
                ]
                for name, result in named[start : start + per_row]:
                    image = result.images[i]
                    if not isinstance(image, Image.Image):
                        image = Image.fromarray((np.asarray(image) * 255).round().astype(np.uint8))
                    label = name if count == 1 else f"{name}, seed {result.seeds[i]}"
                    row.append((image.convert("RGB"), label))
                rows.append(row)
        return labelled_grid(rows)

    def table(self) -> str:
        """One line a strategy: its steps' share of the time, its seeds and its model calls."""
        width = max(len("strategy"), *(len(name) for name in self.results))
        lines = [f"{'strategy':<{width}}  model calls  seeds"]
        for name, result in self.results.items():
            seeds = ", ".join(str(seed) for seed in result.seeds)
            lines.append(f"{name:<{width}}  {result.model_calls:>11}  {seeds}")
        lines.append(f"{self.seconds:.1f} s for all, in shared model calls")
        return "\n".join(lines)

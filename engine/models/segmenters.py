"""Segmenters that a user names: Segment Anything through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def load_segmenter(model: Any) -> tuple[Any, Any]:
    """Segment Anything (Kirillov et al. 2023) and its processor, from a folder or hub id; a pair
    that is loaded stays as it is.

    Raises:
        ModelError: it is missing, unreachable or of another kind.
    """
    if isinstance(model, tuple):
        return model
    from transformers import SamModel, SamProcessor

    from engine.models.formats.sources import asked_once

    try:
        with asked_once(model):
            return SamModel.from_pretrained(model).eval(), SamProcessor.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"no Segment Anything model behind {str(model)!r}: {reason}") from error


def segmented(
    segmenter: tuple[Any, Any],
    rgb: NDArray[np.uint8],
    inside: Sequence[tuple[float, float]],
    outside: Sequence[tuple[float, float]],
) -> NDArray[np.float32]:
    """The thing (H W, 0 and 1) that points (x, y in px) lie on: of its guesses the one that it
    trusts most.
    """
    import numpy as np
    import torch

    model, processor = segmenter
    points = [[float(x), float(y)] for x, y in [*inside, *outside]]
    labels = [1] * len(inside) + [0] * len(outside)
    inputs = processor(rgb, input_points=[[points]], input_labels=[[labels]], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs.to(model.device))
    (masks,) = processor.image_processor.post_process_masks(
        outputs.pred_masks.cpu(),
        inputs["original_sizes"].cpu(),
        inputs["reshaped_input_sizes"].cpu(),
    )
    best = int(outputs.iou_scores[0, 0].argmax())
    return np.asarray(masks[0, best].numpy(), np.float32)

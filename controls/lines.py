"""Control images at another size, their lines as white as ControlNets were shown them.

Resampled, a line of one pixel becomes grey (at 38% of the size to 39% of its brightness), and the
control weak. So drawings of black and white are thresholded again, and thin lines thinned to one
pixel, as A1111's ControlNet extension does (``high_quality_resize`` in its ``processor.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F

THIN = 0.02
"""A drawing has thin lines if at most this share of its white is left when each pixel needs all of
its 3 x 3 neighbours."""


def resized(image: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A control image (1 3 H W in [0, 1]) at ``shape`` (height, width): black and white as such,
    anything else averaged.
    """
    height, width = shape
    if tuple(image.shape[-2:]) == (height, width):
        return image
    smooth = F.interpolate(image, size=(height, width), mode="bilinear", antialias=True)
    drawing = image[0, 0]
    white = drawing == 1
    if not (white | (drawing == 0)).all() or not (image == drawing).all() or not white.any():
        return smooth
    area = np.asarray(white, np.uint8)
    left = cv2.erode(area, np.ones((3, 3), np.uint8)).sum() / area.sum()
    if left > THIN:
        return (smooth >= 0.5).to(image)
    from skimage.morphology import skeletonize

    # A line of a pixel covers this share of a pixel; half of it where it runs between two.
    share = min(1.0, height / image.shape[-2], width / image.shape[-1])
    lines = torch.from_numpy(skeletonize(np.asarray(smooth[0, 0] >= 0.4 * share)))
    return lines.to(image).expand(1, 3, -1, -1).contiguous()

"""The whole frame repainted, of which the paste takes what the map asks for."""

from __future__ import annotations

from engine.denoise.strategy import Part


class Whole(Part):
    """Holds nothing: the network repaints all that it sees, as edit models do (``instruct=True``).

    Where the map is 0 the result is the original all the same: what is pasted is what the map
    covers. What the network does to the colours of all the frame shows beside the mask, where the
    original is known, and the colour field takes it away inside.
    """

    exclusive = "what holds the known region"

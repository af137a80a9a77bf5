"""How a request's texts are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.models.text import Embeds, Reading

if TYPE_CHECKING:
    from engine.request.request import EditRequest


def reading_of(request: EditRequest) -> Reading:
    """Of an edit's prompts, or the embeddings in their place."""
    embeds = Embeds(request.embeds) if request.embeds else None
    like_diffusers = request.compat is not None
    return Reading(request.syntax, request.clip_skip, embeds, like_diffusers)

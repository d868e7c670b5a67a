"""What is known of a template besides its components, and the checks of what callers say about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeface.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class TemplateInfo:
    """What is known of one template besides its components."""

    quality: float | None = None
    source_hash: str | None = None


def template_infos(
    count: int, qualities: Sequence[float] | None, source_hashes: Sequence[str] | None
) -> list[TemplateInfo]:
    """One for each of `count` embeddings. Raises InputError."""
    for word, given in (("qualities", qualities), ("source_hashes", source_hashes)):
        if given is None:
            continue
        if isinstance(given, (str, bytes)) or not hasattr(given, "__len__") or not hasattr(given, "__getitem__"):
            raise InputError(f"Gallery.add: {word}: expected a sequence, got {type(given).__name__}")
        if len(given) != count:
            raise InputError(f"Gallery.add: {word}: expected one for each of {count} embeddings, got {len(given)}")
    scores: list[float | None] = [None] * count
    if qualities is not None:
        try:
            scores = [float(one) for one in qualities if not isinstance(one, (str, bytes, bool))]
        except (TypeError, ValueError, OverflowError, KeyError):
            scores = []
        if len(scores) != count or not np.isfinite(np.array(scores, np.float64)).all():
            raise InputError("Gallery.add: qualities: expected finite numbers")
    hashes: list[str | None] = [None] * count
    if source_hashes is not None:
        for one in source_hashes:
            if not isinstance(one, str) or not 1 <= len(one) <= 128 or not one.isprintable():
                raise InputError("Gallery.add: source_hashes: expected texts of 1 to 128 printable characters")
        hashes = [str(one) for one in source_hashes]
    return [TemplateInfo(*pair) for pair in zip(scores, hashes, strict=True)]

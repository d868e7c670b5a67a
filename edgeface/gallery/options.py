"""The checks of what `Gallery.open` is given."""

from __future__ import annotations

from edgeface.errors import InputError
from edgeface.numbers import whole


def check_options(
    model_id: object, dimension: object, template: object, busy_timeout_ms: object, exact_up_to: object
) -> None:
    """Raises InputError."""
    if template not in ("int8", "float32"):
        raise InputError(f"Gallery.open: template: expected 'int8' or 'float32', got {template!r}")
    if model_id is not None:
        if not isinstance(model_id, str) or not 1 <= len(model_id) <= 200:
            raise InputError(f"Gallery.open: model_id: expected 1 to 200 characters, got {model_id!r}")
        whole(dimension, "Gallery.open: dimension", 2, 16384)
    whole(busy_timeout_ms, "Gallery.open: busy_timeout_ms", 0, 600_000)
    if exact_up_to is not None:
        whole(exact_up_to, "Gallery.open: exact_up_to", 0)

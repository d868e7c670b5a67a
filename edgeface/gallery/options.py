"""The checks of what `Gallery.open` is given."""

from __future__ import annotations

from edgeface.errors import InputError


def check_options(
    model_id: object, dimension: object, template: object, busy_timeout_ms: int, exact_up_to: int | None
) -> None:
    """Raises InputError."""
    if template not in ("int8", "float32"):
        raise InputError(f"Gallery.open: template: expected 'int8' or 'float32', got {template!r}")
    if model_id is not None:
        if not isinstance(model_id, str) or not 1 <= len(model_id) <= 200:
            raise InputError(f"Gallery.open: model_id: expected 1 to 200 characters, got {model_id!r}")
        if not isinstance(dimension, int) or not 2 <= dimension <= 16384:
            raise InputError(f"Gallery.open: dimension: expected 2 to 16384, got {dimension!r}")
    if not 0 <= busy_timeout_ms <= 600_000:
        raise InputError(f"Gallery.open: busy_timeout_ms: expected 0 to 600000, got {busy_timeout_ms}")
    if exact_up_to is not None and exact_up_to < 0:
        raise InputError(f"Gallery.open: exact_up_to: expected 0 or more, got {exact_up_to}")

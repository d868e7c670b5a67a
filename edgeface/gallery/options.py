"""The checks of what `Gallery.open` is given."""

from __future__ import annotations

from numbers import Integral

from edgeface.errors import InputError


def whole(given: object, least: int, most: int) -> bool:
    """Is it a whole number in this range? True and False are none."""
    return isinstance(given, Integral) and not isinstance(given, bool) and least <= int(given) <= most


def check_options(
    model_id: object, dimension: object, template: object, busy_timeout_ms: object, exact_up_to: object
) -> None:
    """Raises InputError."""
    if template not in ("int8", "float32"):
        raise InputError(f"Gallery.open: template: expected 'int8' or 'float32', got {template!r}")
    if model_id is not None:
        if not isinstance(model_id, str) or not 1 <= len(model_id) <= 200:
            raise InputError(f"Gallery.open: model_id: expected 1 to 200 characters, got {model_id!r}")
        if not whole(dimension, 2, 16384):
            raise InputError(f"Gallery.open: dimension: expected 2 to 16384, got {dimension!r}")
    if not whole(busy_timeout_ms, 0, 600_000):
        raise InputError(f"Gallery.open: busy_timeout_ms: expected 0 to 600000, got {busy_timeout_ms!r}")
    if exact_up_to is not None and not whole(exact_up_to, 0, 1 << 62):
        raise InputError(f"Gallery.open: exact_up_to: expected 0 or more, got {exact_up_to!r}")

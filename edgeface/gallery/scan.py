"""Exact search over rows in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def quantize_templates(x: npt.NDArray[np.float32], *, scale: float) -> npt.NDArray[np.int8]:
    """Unit rows as int8 steps of `scale`, rounded half to even, saturated at 127."""
    coded: npt.NDArray[np.int8] = np.clip(np.rint(x / np.float32(scale)), -127, 127).astype(np.int8)
    return coded


def best_rows(
    templates: npt.NDArray[Any], probes: npt.NDArray[Any], k: int, mask: npt.NDArray[np.uint8] | None
) -> npt.NDArray[np.int64]:
    """(Q, k) rows with the largest products, best first, ties by lower row; -1 where there are fewer."""
    wide = np.int32 if templates.dtype == np.int8 else np.float32
    dots = (probes.astype(wide) @ templates.T.astype(wide)).astype(np.float64)
    if mask is not None:
        dots[:, mask == 0] = -np.inf
    found = np.argsort(-dots, axis=1, kind="stable")[:, :k]
    found = np.where(np.take_along_axis(dots, found, 1) == -np.inf, -1, found)
    short = k - found.shape[1]
    return np.pad(found, ((0, 0), (0, max(0, short))), constant_values=-1).astype(np.int64)

"""The one check of a tensor against a manifest, for every runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import InputError

if TYPE_CHECKING:
    from edgeface.manifest import Manifest


def check_tensor(manifest: Manifest, tensor: Any) -> None:
    """Accept a network's input, or say what was expected.

    Args:
        manifest: of the network.
        tensor: (N, 3, H, W) float32, as `Engine.run` specifies.

    Raises:
        InputError: anything else, or a batch larger than the manifest's.
    """
    size = manifest.input_size
    fits = isinstance(tensor, np.ndarray) and tensor.dtype == np.float32 and tensor.ndim == 4
    fits = fits and tensor.shape[1] == 3 and tensor.shape[0] >= 1
    if fits and size is None:
        fits = tensor.shape[2] % 32 == 0 and tensor.shape[3] % 32 == 0 and min(tensor.shape[2:]) > 0
    elif fits:
        fits = tensor.shape[2:] == size
    if not fits:
        sides = "H, W" if size is None else f"{size[0]}, {size[1]}"
        got = f"{tensor.shape} {tensor.dtype}" if isinstance(tensor, np.ndarray) else type(tensor).__name__
        raise InputError(f"{manifest.name}: expected a tensor (N, 3, {sides}) float32, got {got}")
    if manifest.max_batch is not None and tensor.shape[0] > manifest.max_batch:
        raise InputError(f"{manifest.name}: batch {tensor.shape[0]} is larger than {manifest.max_batch}")

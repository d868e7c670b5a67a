"""How far a tensor of one network is from the same tensor of another that rescaled its channels or moved it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Sums = npt.NDArray[np.float64]

#: Reported for tensors that are equal to the last digit: float32 itself ends near 150 dB.
EQUAL_DB = 150.0
#: A channel with less than this part of the strongest one's power is silent: its own error says nothing.
SILENT = 1e-4
#: A shift is there where it takes away this share of the error that gains alone leave; quantisation noise has none.
SHIFTED = 0.5
#: Shifts that are tried, in parts of the largest value, before the best one is refined.
GRID = 129


class Tally:
    """Sums over one tensor of both networks, in two passes: first `fit` for the scales, then `add` for the errors.

    Equalisation multiplies the channels of a tensor by constants that the next layer divides by, and a tensor of one
    sign is moved into the middle of INT8's range by one constant that the next bias takes back (`equalize`, `centre`).
    So a = gain * (b + shift), with a gain of at least 0 for each channel and one shift for the tensor, by least
    squares. A shift for each channel would also explain away weights of a wrong scale. All errors are in units of the
    first network.

    Args:
        fixed: the gains are 1, the shift is 0: nothing behind the tensor could make up for others.
    """

    def __init__(self, name: str, *, fixed: bool = False) -> None:
        self.name = name
        self._fixed = fixed
        self.not_finite = 0
        self._sums: Sums = np.zeros((5, 0))  # per channel: of a, b, a * a, a * b and b * b
        self._values = 0  # of a channel
        self._most = 0.0
        self._absolute = self._largest = self._squared = 0.0
        self._count = 0

    def fit(self, a: Array, b: Array) -> None:
        """Take (N, C, ...) values of both networks into the scales. Raises ModelError when these differ in shape."""
        one, other = self._rows(a, b)
        if not self._sums.shape[1]:
            self._sums = np.zeros((5, one.shape[1]))
        self._sums[0] += one.sum(axis=(0, 2))
        self._sums[1] += other.sum(axis=(0, 2))
        for at, (x, y) in enumerate(((one, one), (one, other), (other, other)), 2):
            self._sums[at] += np.einsum("ncp,ncp->c", x, y)
        self._values += one.shape[0] * one.shape[2]
        self._most = max(self._most, float(np.abs(other).max(initial=0.0)))

    def add(self, a: Array, b: Array) -> None:
        """Take the same values again, for the errors."""
        one, other = self._rows(a, b)
        error = np.abs(one - (other + self.shift) * self.gains[:, None])
        self._absolute += float(error.sum())
        self._squared += float((error**2).sum())
        self._largest = max(self._largest, float(error.max(initial=0.0)))
        self._count += error.size

    @cached_property
    def shift(self) -> float:
        """What the second network's values lack, in its units. Known after the first pass."""
        if self._fixed or not self._most:
            return 0.0
        alone = self._left(0.0).sum()
        step = 2 * self._most / (GRID // 2)
        wide = max(np.arange(-(GRID // 2), GRID // 2 + 1) * step, key=lambda c: -self._left(c).sum())
        low, high = wide - step, wide + step
        for _ in range(80):  # a third less each time: down to the last digits of a float64
            first, second = low + (high - low) / 3, high - (high - low) / 3
            if self._left(first).sum() < self._left(second).sum():
                high = second
            else:
                low = first
        best = (low + high) / 2
        noticed = alone > 1e-12 * self._sums[2].sum()
        return float(best) if noticed and self._left(best).sum() < (1 - SHIFTED) * alone else 0.0

    @cached_property
    def gains(self) -> Sums:
        """(C,) factors of the second network's channels; 0 where one is dead or of opposite sign there."""
        return np.ones_like(self._sums[0]) if self._fixed else self._gains(self.shift)

    def _moved(self, shift: float) -> tuple[Sums, Sums]:
        """Per channel, sums of a * (b + shift) and of (b + shift) squared."""
        a, b, _, product, own = self._sums
        return product + shift * a, np.maximum(own + 2 * shift * b + shift**2 * self._values, 0.0)

    def _gains(self, shift: float) -> Sums:
        product, own = self._moved(shift)
        alive = own > 1e-14 * self._values * self._most**2  # below it the sums have cancelled
        factors: Sums = np.maximum(np.divide(product, own, out=np.zeros_like(own), where=alive), 0.0)
        return factors

    def _left(self, shift: float, gains: Sums | None = None) -> Sums:
        """Per channel, the power of the error that is left."""
        product, own = self._moved(shift)
        scale = self._gains(shift) if gains is None else gains
        left: Sums = np.maximum(self._sums[2] - 2 * scale * product + scale**2 * own, 0.0)
        return left

    def alone(self) -> dict[str, Any]:
        """Signal over the error that is left, in dB: of all and of the worst channel, from the first pass."""
        if self.not_finite:
            return {"own_db": None, "channel": None, "channel_db": None}
        power, left = self._sums[2], self._left(self.shift, self.gains)
        alive = np.flatnonzero(power > SILENT * float(power.max(initial=0.0)))
        if not len(alive):
            return {"own_db": EQUAL_DB, "channel": None, "channel_db": EQUAL_DB}
        worst = int(alive[np.argmax(left[alive] / power[alive])])
        return {
            "own_db": decibels(float(left.sum() / power.sum())),
            "channel": worst,
            "channel_db": decibels(float(left[worst] / power[worst])),
        }

    def row(self) -> dict[str, Any]:
        """Cosine, signal over error in dB, mean and largest error, scales; see `compare`."""
        if self.not_finite:
            return {"not_finite_pictures": self.not_finite, "sqnr_db": None}
        power, gains = self._sums[2], self.gains
        total = float(power.sum())
        product, own = self._moved(self.shift)
        scaled = float(np.sqrt((gains**2 * own).sum() * total))
        noise = self._squared / max(total, 1e-300) if total or self._squared else 0.0
        used = gains[gains > 0]
        return {
            "not_finite_pictures": 0,
            "cosine": min(float((gains * product).sum()) / scaled, 1.0) if scaled else float(total == 0.0),
            "sqnr_db": decibels(noise),
            "mean_error": self._absolute / max(self._count, 1),
            "largest_error": self._largest,
            "rms": (total / max(self._count, 1)) ** 0.5,
            "gain_least": float(used.min()) if len(used) else None,
            "gain_most": float(used.max()) if len(used) else None,
            "shift": self.shift,
        }

    def _rows(self, a: Array, b: Array) -> tuple[Array, Array]:
        if a.shape != b.shape:
            raise ModelError(
                f"different architectures: {self.name} is of shape {a.shape} in A and {b.shape} in B for the same "
                "pictures; give two versions of one network"
            )
        wide = [value.astype(np.float64).reshape(len(value), value.shape[1], -1) for value in (a, b)]
        fine = [np.isfinite(value).all(axis=(1, 2)) for value in wide]
        if not fine[0].all():
            raise ModelError(f"A itself gives NaN or infinity at {self.name}: there is nothing to compare with")
        self.not_finite += int((~fine[1]).sum())
        return wide[0][fine[1]], wide[1][fine[1]]


def decibels(noise: float) -> float:
    """Signal over error, of the share of error in the signal's power."""
    return min(-10 * float(np.log10(max(noise, 1e-30))), EQUAL_DB) + 0.0  # no -0.0

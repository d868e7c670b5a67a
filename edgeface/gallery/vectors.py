"""Embeddings at the boundary of the gallery: checks, and the bytes of a template on disk."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeface import kernels
from edgeface.errors import GalleryCorruptError, InputError

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    RowArray = npt.NDArray[Any]  # int8 or float32, by the gallery's encoding

Encoding = Literal["int8", "float32"]

#: A row's length may differ from 1 by this much: float32 and float16 engines normalise to within 1e-3.
UNIT_TOLERANCE = 2e-3

#: A template whose int8 form points elsewhere than the vector itself is refused. Rounding alone gives a
#: cosine of 0.9998 for SFace; less than this means that components were cut off at 127 * scale.
LEAST_FIDELITY = 0.99


def default_scale(dimension: int) -> float:
    """The int8 step for embeddings of this length.

    0.5 / 127 at 128 components and above: the largest component of the SFace embeddings of 7,701 LFW photographs was
    0.435, measured with the prototype.
    Shorter vectors have larger components, in proportion to 1 / sqrt(dimension).
    """
    return min(1.0, 0.5 * max(1.0, math.sqrt(128 / dimension))) / 127


def check_rows(where: str, given: object, dimension: int) -> FloatArray:
    """The (n, d) float32 unit rows that a caller passed, or one row (d,) as (1, d). Raises InputError."""
    if not isinstance(given, np.ndarray) or given.dtype != np.float32:
        got = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else type(given).__name__
        raise InputError(f"{where}: expected a float32 array of shape (n, {dimension}), got {got}")
    rows = given[None, :] if given.ndim == 1 else given
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise InputError(f"{where}: expected shape (n, {dimension}) or ({dimension},), got {given.shape}")
    rows = np.ascontiguousarray(rows)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE))  # written so that NaN is wrong
    if len(wrong):
        raise InputError(
            f"{where}: expected rows of length 1 (within {UNIT_TOLERANCE}), row {wrong[0]} has length "
            f"{lengths[wrong[0]]:.6g}; normalise embeddings first"
        )
    return rows


@dataclass(frozen=True)
class Codec:
    """Template bytes of one gallery: int8 steps of `scale`, or little-endian float32."""

    dimension: int
    encoding: Encoding
    scale: float

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a stored component."""
        return np.dtype(np.int8) if self.encoding == "int8" else np.dtype("<f4")

    @property
    def size(self) -> int:
        """Bytes of one template."""
        return self.dimension * self.dtype.itemsize

    def encode(self, rows: FloatArray) -> RowArray:
        """Unit rows as they are stored. Raises InputError where int8 cannot hold a row."""
        if self.encoding == "float32":
            return rows.astype("<f4", copy=False)
        coded = kernels.quantize_templates(rows, scale=self.scale)
        poor = np.flatnonzero(cosines(rows, coded) < LEAST_FIDELITY)
        if len(poor):
            raise InputError(
                f"Gallery.add: row {poor[0]} has a component of {np.abs(rows[poor[0]]).max():.3f}; int8 templates of "
                f"this gallery hold up to {127 * self.scale:.3f}; such a model needs template='float32'"
            )
        return coded

    def decode(self, blobs: list[bytes]) -> RowArray:
        """(n, d) stored components from template bytes, n rows in all."""
        return np.frombuffer(b"".join(blobs), dtype=self.dtype).reshape(-1, self.dimension)

    def probes(self, rows: FloatArray) -> RowArray:
        """Probe rows in the encoding, for ranking only: stretched to int8's whole range, which keeps the order."""
        if self.encoding == "float32":
            return rows.astype("<f4", copy=False)
        stretched = rows * (127 * self.scale / np.abs(rows).max(axis=1, keepdims=True))
        return kernels.quantize_templates(stretched.astype(np.float32), scale=self.scale)


def cosines(probe: FloatArray, stored: RowArray) -> FloatArray:
    """Cosines of one probe (d,) or of n probes (n, d), row by row, with stored rows (n, d) of either encoding."""
    rows = stored.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    dots = rows @ probe if probe.ndim == 1 else np.einsum("ij,ij->i", rows, probe)
    result: FloatArray = np.clip(dots / np.maximum(lengths, 1e-12), -1.0, 1.0).astype(np.float32)
    return result


#: template id, person id: what a checksum starts with
IDS = struct.Struct("<qq")


def checksum(template_id: int, person_id: int, data: bytes) -> int:
    """CRC-32 of a template with the ids it belongs to: finds bit rot and rows that changed places."""
    return zlib.crc32(data, zlib.crc32(IDS.pack(template_id, person_id)))


def check_stored(template_id: int, person_id: int, data: bytes, stored: int, size: int) -> None:
    """Refuse a template that is not what was written. Raises GalleryCorruptError."""
    if len(data) != size or checksum(template_id, person_id, data) != stored:
        raise GalleryCorruptError(
            f"template {template_id} of person {person_id} is damaged; `edgeface gallery check --gallery PATH "
            "--repair` removes damaged templates and says whom to enrol again"
        )

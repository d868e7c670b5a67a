"""What a reader learns from the file: templates column by column, and what became of them since it last looked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgeface.gallery.vectors import RowArray

    IntArray = npt.NDArray[np.int64]


class Block(NamedTuple):
    """Templates column by column: n ids, owners, checksums, and components (n, d)."""

    template_ids: IntArray
    person_ids: IntArray
    checksums: npt.NDArray[np.uint32]
    rows: RowArray


@dataclass(frozen=True)
class Change:
    """What happened to the templates after a sequence number.

    Attributes:
        seq: the last change included.
        reset: everything known before is void; `added` are all templates there are.
        added: templates, ids rising.
        removed: template ids.
    """

    seq: int
    reset: bool
    added: Block
    removed: IntArray

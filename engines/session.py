"""Runs ONNX graphs with onnxruntime while an engine is built: exact arithmetic, many pictures, any batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeface.errors import BuildError, MissingDependencyError, install_extra

try:
    import onnxruntime
except ImportError as error:  # pragma: no cover - the message is tested with a blocked import
    raise MissingDependencyError(f"building needs onnxruntime ({error}); {install_extra('build')}") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from edgeface.engines.graph import Graph

    Array = npt.NDArray[np.float32]


class Tensors(Protocol):
    """(N, 3, H, W) float32 pictures: an array, or something that makes them slice by slice."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> Array: ...


#: Pictures of one run where the network takes any batch: large enough to fill two cores, small enough for a board.
BATCH = 8


def open_session(content: bytes, name: str) -> Any:
    """An onnxruntime session for exact arithmetic; BuildError where onnxruntime refuses the network.

    The Q/DQ nodes are computed as written, in float32, rather than fused to integer kernels: that is the arithmetic
    which every runtime approximates, and on x86 without VNNI the fused kernels of onnxruntime saturate.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BuildError(f"{name}: onnxruntime cannot load the network: {str(error)[:400]}") from error


def pad(part: Array, batch: int) -> Array:
    """A batch filled up with its last picture."""
    return np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])


def cut(value: Any, count: int, batch: int) -> Any:
    """What the first `count` pictures of a batch gave. A picture may give several rows, one for each token, say."""
    if value.ndim and len(value) % batch == 0:
        return value[: len(value) // batch * count]
    return value  # inside a network a tensor may have something else than pictures in front


class Runner:
    """A graph made ready to run over many pictures.

    Args:
        outputs: tensors to give, also such as lie inside the network.
        batch: pictures of one run where the network takes any batch.
    """

    def __init__(self, graph: Graph, *, outputs: Sequence[str] | None = None, batch: int = BATCH) -> None:
        wanted = list(outputs or graph.output_names)
        self._session = open_session(graph.to_bytes(extra_outputs=wanted), graph.name)
        self._input = graph.input_name
        self._wanted = wanted
        fixed = self._session.get_inputs()[0].shape[0]
        self._fixed = isinstance(fixed, int) and fixed > 0
        self.batch: int = fixed if self._fixed else batch

    def batches(self, tensors: Tensors, *, tick: Callable[[int], None] | None = None) -> Iterator[dict[str, Array]]:
        """The outputs of (N, 3, H, W) float32 pictures, batch by batch; where the network's batch is fixed, the last
        one is padded and cut.
        """
        for start in range(0, len(tensors), self.batch):
            part = tensors[start : start + self.batch]
            count = len(part)
            batch = self.batch if self._fixed else count
            if count < batch:
                part = pad(part, batch)
            try:
                values = self._session.run(self._wanted, {self._input: part})
            except Exception as error:
                raise BuildError(f"onnxruntime failed while it ran the network: {str(error)[:400]}") from error
            yield {name: cut(value, count, batch) for name, value in zip(self._wanted, values, strict=True)}
            if tick is not None:
                tick(count)

    def run(self, tensors: Tensors, *, tick: Callable[[int], None] | None = None) -> dict[str, Array]:
        """The outputs of all pictures at once; for small outputs."""
        parts = list(self.batches(tensors, tick=tick))
        return {name: np.concatenate([part[name] for part in parts]) for name in self._wanted}

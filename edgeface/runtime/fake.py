"""An engine without a network, for tests: give it a manifest and a function, and it obeys the `Engine` protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeface.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from edgeface.manifest import Manifest
    from edgeface.types import FloatArray


class FakeEngine:
    """Answers every run with what a function makes of the tensor.

    Args:
        manifest: what the engine pretends to be.
        respond: gets the (N, 3, H, W) float32 tensor and gives the outputs by meaning; may raise.

    Attributes:
        shapes: of the tensors that it was run on, oldest first.
    """

    def __init__(self, manifest: Manifest, respond: Callable[[FloatArray], Mapping[str, FloatArray]]) -> None:
        self.manifest = manifest
        self.description = "fake engine"
        self.shapes: list[tuple[int, ...]] = []
        self._respond = respond
        self._closed = False

    def run(self, tensor: FloatArray) -> Mapping[str, FloatArray]:
        """See `Engine.run`."""
        if self._closed:
            raise ClosedError(f"{self.manifest.name}: this engine was closed")
        self.shapes.append(tensor.shape)
        return self._respond(tensor)

    def close(self) -> None:
        """Refuse further runs."""
        self._closed = True

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

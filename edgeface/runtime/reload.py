"""An engine that can be exchanged while other threads run it: model updates, and recovery from a lost GPU context."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from edgeface.errors import ClosedError, EngineIncompatibleError
from edgeface.runtime.engine import prepares_frames, run_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from edgeface.manifest import Manifest
    from edgeface.runtime.engine import Engine
    from edgeface.runtime.frame import Work
    from edgeface.types import FloatArray

T = TypeVar("T")

#: What callers have read from the manifest before they run, so that it must not change between the two.
FIXED = ("kind", "head", "input_size", "preprocessing", "dimension", "template", "liveness")


class ReloadableEngine:
    """Stands before an engine. `exchange` puts another in its place without a failed or waiting run.

    Args:
        engine: the first one; this object owns it.

    Attributes:
        manifest, description: of the engine that the next run uses.
    """

    def __init__(self, engine: Engine) -> None:
        self.manifest = engine.manifest
        self.description = engine.description
        self._engine = engine
        self._lock = threading.Lock()
        self._closed = False

    @property
    def current(self) -> Engine:
        """The engine itself."""
        return self._engine

    def run(self, tensor: FloatArray) -> Mapping[str, FloatArray]:
        """See `Engine.run`."""
        return self._on_current(lambda engine: engine.run(tensor))

    @property
    def prepares_frames(self) -> bool:
        """See `FrameEngine`; of the engine that the next run uses."""
        return prepares_frames(self._engine)

    def run_frame(self, work: Work) -> Mapping[str, FloatArray] | None:
        """See `FrameEngine.run_frame`."""
        return self._on_current(lambda engine: run_frame(engine, work))

    def _on_current(self, run: Callable[[Engine], T]) -> T:
        while True:
            engine = self._engine
            try:
                return run(engine)
            except ClosedError:
                # Exchanged between the two lines above, and closed: the new engine takes this run.
                if self._closed or engine is self._engine:
                    raise

    def exchange(self, engine: Engine) -> None:
        """Run `engine` from now on. Runs in progress end on the old one, which is then closed.

        Raises:
            EngineIncompatibleError: its inputs or its embeddings are not those of the old engine. `engine` is not
                closed, the old one runs on.
            ClosedError: this object was closed.
        """
        with self._lock:
            if self._closed:
                raise ClosedError(f"{self.manifest.name}: this engine was closed")
            old = self._engine
            check_exchange(old.manifest, engine.manifest)
            self._engine = engine
            self.manifest = engine.manifest
            self.description = engine.description
        old.close()

    def close(self) -> None:
        """Close the engine. Closing twice is harmless."""
        with self._lock:
            self._closed = True
        self._engine.close()

    def __enter__(self) -> ReloadableEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_exchange(old: Manifest, new: Manifest) -> None:
    """Whether `new` can take the place of `old` in a running recogniser. Raises EngineIncompatibleError."""
    fixed = (*FIXED, "model_id") if old.kind == "embedder" else FIXED  # a gallery holds templates of one model id
    for key in fixed:
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            raise EngineIncompatibleError(
                f"{new.name}: cannot take the place of {old.name} in a running recogniser: {key} was {before!r}, "
                f"is {after!r}; close the recogniser and open it with the new model"
            )
    smaller = new.max_batch is not None and (old.max_batch is None or new.max_batch < old.max_batch)
    if old.kind != "detector" and smaller:  # a detector gets one frame at a time
        raise EngineIncompatibleError(
            f"{new.name}: cannot take the place of {old.name} in a running recogniser: its largest batch is "
            f"{new.max_batch}, that of the old one {old.max_batch or 'any'}"
        )

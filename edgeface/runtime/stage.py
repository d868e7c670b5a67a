"""The engines of one recogniser together: opened, and opened again."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeface.home import checked_path
from edgeface.runtime.choice import choose, is_file
from edgeface.runtime.reload import ReloadableEngine, check_exchange

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from edgeface.manifest import Manifest
    from edgeface.runtime.choice import Choice
    from edgeface.runtime.engine import Engine


class Stage:
    """Loads several models by `choose`, and again on demand.

    Args:
        models: by the role that they play, a recipe's name or a model file each.
        options: of `choose`, by role.
        owned: closes the engines.

    Attributes:
        engines: by role.
        runtimes: what was chosen, by role.
    """

    def __init__(
        self,
        models: Mapping[str, str | os.PathLike[str]],
        options: Mapping[str, Mapping[str, Any]],
        owned: ExitStack,
    ) -> None:
        # A daemon may change its folder before it loads them again.
        self._models = {role: checked_path(role, model) if is_file(model) else model for role, model in models.items()}
        self._options = dict(options)
        self._lock = threading.Lock()
        self.engines: dict[str, ReloadableEngine] = {}
        self.runtimes: dict[str, Choice] = {}
        for role, model in self._models.items():
            engine, self.runtimes[role] = choose(model, **self._options[role])
            self.engines[role] = owned.enter_context(ReloadableEngine(engine))

    def reload(self, check: Callable[[Mapping[str, Manifest]], object] | None = None) -> None:
        """Load every model again, then exchange all engines; see `FaceRecognizer.reload`.

        Args:
            check: gets the new manifests by role before the exchange, and raises where they will not do.
        """
        with self._lock, ExitStack() as failed:
            lost = {role for role, held in self.engines.items() if getattr(held.current, "lost", None)}
            if lost:
                # Only when the last engine of a lost context is gone can the GPU be opened again.
                for held in self.engines.values():
                    held.current.close()
            loaded: dict[str, tuple[Engine, Choice]] = {}
            for role, model in self._models.items():
                options = self._options[role]
                if role in lost and not is_file(model):
                    # There again or not at all: with "auto" a GPU that only a new process brings back would leave the
                    # CPU to recognise, for months.
                    options = {**options, "runtime": "tensorrt"}
                loaded[role] = choose(model, **options)
                failed.callback(loaded[role][0].close)
                check_exchange(self.engines[role].manifest, loaded[role][0].manifest)
            if check is not None:
                check({role: engine.manifest for role, (engine, _) in loaded.items()})
            for role, (engine, choice) in loaded.items():
                self.engines[role].exchange(engine)
                self.runtimes[role] = replace(choice, reason=self.runtimes[role].reason) if role in lost else choice
            failed.pop_all()

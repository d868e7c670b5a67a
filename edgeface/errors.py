"""Every error that edgeface raises on purpose, in one tree.

    EdgefaceError
    |-- InputError             an argument is not what was asked for (also a ValueError)
    |-- ConfigurationError     an option, environment variable or combination cannot work
    |   `-- MissingDependencyError   a package or system library is absent (also an ImportError)
    |-- ModelError             a recipe, model file or manifest
    |   |-- RecipeError        a recipe or manifest is malformed
    |   |-- ModelNotFoundError the model is not in the model folder
    |   |-- ModelFetchError    the model could not be fetched or stored
    |   `-- ModelIntegrityError      a file's size or checksum is not the pinned one
    |-- BuildError             a model could not be calibrated, quantised or compiled
    |   `-- GateError          the built engine recognises worse than its recipe allows
    |-- EngineError            an engine failed to load or run
    |   |-- EngineIncompatibleError  built for another version, device or model
    |   `-- InferenceError     the runtime failed while running a network
    |-- GalleryError           the gallery file or its index
    |   |-- GalleryCorruptError      damaged, truncated or tampered with
    |   |-- GalleryFormatError       not a gallery, or written by a newer edgeface
    |   |-- GalleryMismatchError     templates of another model or size
    |   |-- GalleryBusyError         another process holds the write lock
    |   |-- GalleryKeyError          encryption key absent or wrong
    |   |-- PersonNotFoundError      nobody of that name or id (also a KeyError)
    |   `-- PersonExistsError        that name is taken
    |-- EnrolmentError         a photograph was refused; `.reason` says why
    `-- ClosedError            the object was closed before this call

A message says what failed, what was expected and what was got, and what to do.
"""

from __future__ import annotations

import functools
import sys


class EdgefaceError(Exception):
    """Base of every error that edgeface raises on purpose."""


class InputError(EdgefaceError, ValueError):
    """An argument has the wrong type, shape, dtype or range."""


class ConfigurationError(EdgefaceError):
    """An option, an environment variable or a combination of them cannot work."""


class MissingDependencyError(ConfigurationError, ImportError):
    """A package or system library that this call needs is not installed."""


class ModelError(EdgefaceError):
    """A recipe, a model file or a manifest cannot be used."""


class RecipeError(ModelError):
    """A recipe or manifest is malformed: the message names the file, the key and what was expected."""


class ModelNotFoundError(ModelError):
    """The model is not in the model folder; the message names the command that fetches it."""


class ModelFetchError(ModelError):
    """The model could not be fetched or stored; nothing half-written is left."""


class ModelIntegrityError(ModelError):
    """A file's size or checksum differs from the pinned one."""


class BuildError(EdgefaceError):
    """A model could not be calibrated, quantised or compiled."""


class GateError(BuildError):
    """The built engine recognises worse than its recipe allows; no engine was written."""


class EngineError(EdgefaceError):
    """An engine failed to load or to run."""


class EngineIncompatibleError(EngineError):
    """The engine was built for another runtime version, device or model."""


class InferenceError(EngineError):
    """The runtime failed while it ran a network."""


class GalleryError(EdgefaceError):
    """The gallery file or its index cannot be used."""


class GalleryCorruptError(GalleryError):
    """The file is damaged, truncated or was tampered with."""


class GalleryFormatError(GalleryError):
    """The file is not a gallery, or a newer edgeface wrote it."""


class GalleryMismatchError(GalleryError):
    """Templates come from another model, or have another size, than the gallery's."""


class GalleryBusyError(GalleryError):
    """Another process held the write lock for longer than the timeout."""


class GalleryKeyError(GalleryError):
    """The encryption key is absent, malformed or not the one that wrote the gallery."""


class PersonNotFoundError(GalleryError, KeyError):
    """Nobody of that name or id is enrolled."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class PersonExistsError(GalleryError):
    """Somebody of that name is already enrolled."""


class EnrolmentError(EdgefaceError):
    """A photograph was refused for enrolment.

    Attributes:
        reason: a stable code in snake case, such as ``no_face`` or ``several_faces``.
        value, limit: what was measured and what it should reach; None where the reason has no measure.
    """

    def __init__(
        self, message: str, *, reason: str, value: float | None = None, limit: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.value = value
        self.limit = limit

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        # Exceptions are pickled by their positional arguments alone. Without this a process pool whose worker refuses a
        # photograph would hang or break while it reads the error.
        return functools.partial(type(self), reason=self.reason, value=self.value, limit=self.limit), self.args


class ClosedError(EdgefaceError):
    """The object was closed before this call."""


def install_extra(name: str) -> str:
    """What to do where the packages of the extra `name` are missing: edgeface is installed from its folder."""
    return f"run `{sys.executable} -m pip install '.[{name}]'` in edgeface's folder"

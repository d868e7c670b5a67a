"""People of a gallery, and what their names and metadata may be."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from edgeface.errors import GalleryCorruptError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME_LIMIT = 200
#: Metadata is for a badge number or a department, not for photographs.
METADATA_LIMIT_BYTES = 65_536


@dataclass(frozen=True)
class Person:
    """One enrolled person.

    Attributes:
        person_id: stable for the life of the gallery, never given to anybody else.
        name: as given, in Unicode's form NFC.
        templates: how many templates they have.
        metadata: the JSON object given with `Gallery.add` or `FaceRecognizer.enroll`.
        created, updated: ISO 8601, UTC, to the millisecond.
    """

    person_id: int
    name: str
    templates: int
    metadata: Mapping[str, Any] = field(hash=False)
    created: str
    updated: str


def check_name(where: str, given: object) -> str:
    """The name in NFC. Raises InputError when it is not 1 to 200 characters without control characters, or is blank."""
    if not isinstance(given, str):
        raise InputError(f"{where}: expected a name as str, got {type(given).__name__}")
    name = unicodedata.normalize("NFC", given)
    if not 1 <= len(name) <= NAME_LIMIT:
        raise InputError(f"{where}: expected a name of 1 to {NAME_LIMIT} characters, got {len(name)}")
    if not name.strip():
        raise InputError(f"{where}: expected a name, got {name!r}: blanks only")
    # Cc control, Cs half of a surrogate pair (cannot be stored as UTF-8), Zl and Zp line breaks.
    for character in name:
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}:
            raise InputError(f"{where}: expected a name without control characters, got U+{ord(character):04X} in it")
    return name


def pack_metadata(where: str, given: Mapping[str, Any] | None) -> str:
    """Metadata as JSON text. Raises InputError when it is not a JSON object or is too long."""
    if given is None:
        return "{}"
    try:
        if not isinstance(given, Mapping):  # a list of pairs would become one
            raise TypeError(f"got {type(given).__name__}")
        text = json.dumps(dict(given), ensure_ascii=False, sort_keys=True, allow_nan=False)
        length = len(text.encode("utf-8"))
        if json.loads(text) != dict(given):  # keys that are not text, tuples: they would come back changed
            raise ValueError("keys must be text and values JSON's own types")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: metadata: expected a mapping that JSON can hold: {error}") from error
    if length > METADATA_LIMIT_BYTES:
        raise InputError(f"{where}: metadata: expected at most {METADATA_LIMIT_BYTES} bytes of JSON, got {length}")
    return text


def iso(milliseconds: int) -> str:
    """Milliseconds since 1970 as ISO 8601 in UTC."""
    moment = datetime.fromtimestamp(milliseconds / 1e3, tz=timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"


def as_person(row: Sequence[Any]) -> Person:
    """A person from (id, name, metadata, created, updated, templates). Raises GalleryCorruptError."""
    try:
        return Person(int(row[0]), str(row[1]), int(row[5]), json.loads(row[2]), iso(int(row[3])), iso(int(row[4])))
    except (ValueError, TypeError, OverflowError, OSError) as error:  # OSError: a time that the system cannot tell
        raise GalleryCorruptError(
            f"the row of person {row[0]} is damaged ({error}); restore a backup, or remove and enrol them again"
        ) from error

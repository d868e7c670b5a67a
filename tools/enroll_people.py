"""A folder of people for `edgeface enroll --people`: a folder of photographs each, or one photograph by their name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeface.errors import InputError
from edgeface.gallery import check_name
from edgeface.photos import SUFFIXES

if TYPE_CHECKING:
    from pathlib import Path


def find_people(folder: Path) -> dict[str, list[Path]]:
    """Where the photographs of each person lie, by name, sorted: folders, and photographs themselves.

    Other files and hidden ones are none.

    Raises:
        InputError: the folder cannot be read, has nobody in it, or a name that no gallery takes.
    """
    try:
        places = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot look there: {error.strerror or error}") from error
    people: dict[str, list[Path]] = {}
    for path in places:
        if path.is_dir():
            people.setdefault(check_name(str(path), path.name), []).append(path)
        elif path.suffix.lower() in SUFFIXES:
            people.setdefault(check_name(str(path), path.stem), []).append(path)
    if not people:
        raise InputError(
            f"{folder}: nobody there; expected a folder of photographs for each person, or photographs named by person"
        )
    return people

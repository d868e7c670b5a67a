"""A folder of people for `edgeface enroll --people`: a folder of photographs each, or one photograph by their name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeface.errors import InputError
from edgeface.gallery import check_name
from edgeface.photos import SUFFIXES

if TYPE_CHECKING:
    from pathlib import Path


def find_people(folder: Path) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Where the photographs of each person lie, by name, sorted: folders, and photographs themselves.

    Other files and hidden ones are passed over.

    Returns:
        The places by name; and why there is no such name in any gallery, by path of the others.

    Raises:
        InputError: the folder cannot be read, or has nobody in it whom a gallery takes.
    """
    try:
        places = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot look there: {error.strerror or error}") from error
    people: dict[str, list[Path]] = {}
    failed: dict[str, str] = {}
    for path in places:
        folders = path.is_dir()
        if not folders and path.suffix.lower() not in SUFFIXES:
            continue
        try:
            people.setdefault(check_name(str(path), path.name if folders else path.stem), []).append(path)
        except InputError as error:
            failed[str(path)] = str(error)
    if not people:
        nobody = "nobody there; expected a folder of photographs for each person, or photographs named by person"
        raise InputError(next(iter(failed.values()), f"{folder}: {nobody}"))
    return people, failed

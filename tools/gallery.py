"""`edgeface gallery`: list, move, check and copy the people of a gallery."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeface.errors import EdgefaceError
from edgeface.tools.output import PersonName, gallery_option, json_option, key_option, print_json, print_table

if TYPE_CHECKING:
    from edgeface.gallery import Gallery



@click.group("gallery")
def command() -> None:
    """Look after the people of a gallery.

    A kiosk may go on using the gallery meanwhile: what is changed here is seen by its next search.
    """


def _open(path: Path, key_file: Path | None) -> Gallery:
    from edgeface.gallery import Gallery, key_from_file

    if not path.exists():
        raise EdgefaceError(f"{path}: no such gallery; `edgeface enroll NAME PHOTO...` makes one")
    return Gallery.open(path, model_id=None, key=None if key_file is None else key_from_file(key_file))


@command.command("list")
@gallery_option
@key_option
@json_option
def list_people(gallery_path: Path, key_file: Path | None, as_json: bool) -> None:
    """Show who is enrolled."""
    with _open(gallery_path, key_file) as gallery:
        people = gallery.people()
    rows: list[dict[str, Any]] = [
        {
            "person_id": person.person_id,
            "name": person.name,
            "templates": person.templates,
            "created": person.created,
            "updated": person.updated,
        }
        for person in people
    ]
    if as_json:
        metadata = {person.person_id: dict(person.metadata) for person in people}
        print_json({"people": [{**row, "metadata": metadata[row["person_id"]]} for row in rows]})
    elif rows:
        print_table(str(gallery_path), list(rows[0]), [list(row.values()) for row in rows])
    else:
        click.echo(f"{gallery_path}: nobody is enrolled")


@command.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", type=PersonName())
@gallery_option
@key_option
@click.option("--from-backups", is_flag=True, help="Also from every backup that `edgeface gallery backup` made.")
def remove(names: tuple[str, ...], gallery_path: Path, key_file: Path | None, from_backups: bool) -> None:
    """Remove people with all their templates; their bytes in the file are overwritten."""
    missed = []
    with _open(gallery_path, key_file) as gallery:
        for name in names:
            if from_backups:
                missed += gallery.erase(name)
            else:
                gallery.remove(name)
            click.echo(f"{name}: removed")
    for line in missed:
        click.echo(f"not erased from {line}", err=True)
    if missed:
        sys.exit(1)


@command.command("rename")
@click.argument("old", type=PersonName())
@click.argument("new", type=PersonName())
@gallery_option
@key_option
def rename(old: str, new: str, gallery_path: Path, key_file: Path | None) -> None:
    """Give a person another name."""
    with _open(gallery_path, key_file) as gallery:
        click.echo(f"{old}: now {gallery.rename(old, new).name}")


@command.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@gallery_option
@key_option
@click.option("--plaintext", is_flag=True, help="Needed for an encrypted gallery: the export is not encrypted.")
def export(file: Path, gallery_path: Path, key_file: Path | None, plaintext: bool) -> None:
    """Write everybody to a portable FILE. It holds templates: keep it as safe as the gallery."""
    with _open(gallery_path, key_file) as gallery:
        click.echo(f"{file}: {gallery.export(file, plaintext=plaintext)} people")


@command.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@gallery_option
@key_option
def import_people(file: Path, gallery_path: Path, key_file: Path | None) -> None:
    """Add everybody of an exported FILE, or nobody; the gallery is made when there is none."""
    from edgeface.gallery import Gallery, key_from_file
    from edgeface.gallery.exchange import describe

    model_id, dimension, encoding, _ = describe(file)
    with Gallery.open(
        gallery_path,
        model_id=model_id,
        dimension=dimension,
        template="int8" if encoding == "int8" else "float32",
        key=None if key_file is None else key_from_file(key_file),
    ) as gallery:
        click.echo(f"{gallery_path}: {gallery.import_(file)} people added")


@command.command("check")
@gallery_option
@click.option("--repair", is_flag=True, help="Remove what is damaged and keep the rest.")
@json_option
def check(gallery_path: Path, repair: bool, as_json: bool) -> None:
    """Read every row and hold it against its checksum. Exit code 1 when a problem is left."""
    from edgeface.gallery.care import check as check_file

    report = check_file(gallery_path, repair=repair)
    if as_json:
        print_json(vars(report))
    else:
        for line in report.problems:
            click.echo(f"problem: {line}")
        for line in report.repaired:
            click.echo(f"repaired: {line}")
        for name in report.enrol_again:
            click.echo(f"enrol again: {name}")
        verdict = "sound" if not report.problems else f"{len(report.problems)} problems"
        click.echo(f"{gallery_path}: {report.people} people, {report.templates} templates, {verdict}")
    if report.problems and not report.repaired:
        sys.exit(1)


@command.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@gallery_option
@key_option
def backup(file: Path, gallery_path: Path, key_file: Path | None) -> None:
    """Copy the gallery to FILE while it is in use. It holds templates: keep it as safe as the gallery."""
    with _open(gallery_path, key_file) as gallery:
        gallery.backup(file)
    click.echo(f"{file}: written, {file.stat().st_size} bytes")


@command.command("rotate-key")
@click.argument("new_key_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@gallery_option
@key_option
def rotate_key(new_key_file: Path, gallery_path: Path, key_file: Path | None) -> None:
    """Encrypt the gallery with the key in NEW_KEY_FILE from now on."""
    from edgeface.gallery import key_from_file

    with _open(gallery_path, key_file) as gallery:
        gallery.rotate_key(key_from_file(new_key_file))
    click.echo(f"{gallery_path}: the key is now the one in {new_key_file}")


@command.command("stats")
@gallery_option
@key_option
@json_option
def stats(gallery_path: Path, key_file: Path | None, as_json: bool) -> None:
    """Show sizes and figures."""
    with _open(gallery_path, key_file) as gallery:
        figures = gallery.stats()
    if as_json:
        print_json(figures)
    else:
        print_table("", ["figure", "value"], [[key, value] for key, value in figures.items()])

"""`edgeface verify`: do two photographs show one person?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeface.photos import read_photo
from edgeface.tools.output import comparison_options, json_option, model_options, print_json
from edgeface.tools.session import open_recognizer


@click.command("verify")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@model_options
@comparison_options
@json_option
def command(a: Path, b: Path, as_json: bool, **options: Any) -> None:
    """Say whether photographs A and B show one person; of several faces the main one counts."""
    import tempfile

    with (
        tempfile.TemporaryDirectory(prefix="edgeface-") as folder,
        open_recognizer(Path(folder) / "empty.gallery", options) as recognizer,
    ):
        result = recognizer.verify(read_photo(a), read_photo(b))
        policy = recognizer.policy
    if as_json:
        print_json({**vars(result), "origin": policy.origin})
        return
    rate = policy.origin if policy.fmr is None else f"false match rate {policy.fmr:g}"
    verdict = "match" if result.match else "no match"
    click.echo(f"{verdict}: similarity {result.similarity:.3f}, threshold {result.threshold:.3f} ({rate})")

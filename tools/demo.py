"""`edgeface demo`: the whole SDK on photographs that come with the package."""

from __future__ import annotations

import tempfile
import time
from importlib import resources
from pathlib import Path

import click

from edgeface.errors import EdgefaceError
from edgeface.tools.output import describe_rate, json_option, print_json, print_table, threads_option

ENROL = {"Emmanuel Macron": ["emmanuel_macron_2014.jpg"], "Jacinda Ardern": ["jacinda_ardern_2018.jpg"]}
PROBES = ["emmanuel_macron_2025.jpg", "jacinda_ardern_2022.jpg", "barack_obama_2005.jpg", "rishi_sunak_2020.jpg"]
STAGES = ("detect", "align", "embed", "search")


def demo_photo(name: str) -> Path:
    """The path of a photograph that comes with the package."""
    return Path(str(resources.files("edgeface.tools"))) / "demo_photos" / name


@click.command("demo")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("edgeface-demo.jpg"),
              show_default=True, help="Where the annotated picture goes.")  # fmt: skip
@threads_option
@json_option
def command(out: Path, threads: int | None, as_json: bool) -> None:
    """Enrol two people and recognise them in other photographs, with strangers among them.

    The first run fetches the two default models; later runs need no network.
    """
    from edgeface import FaceRecognizer
    from edgeface.engines.recipe import load_recipe
    from edgeface.home import write_atomically
    from edgeface.photos import read_photo
    from edgeface.tools.annotate import annotate, contact_sheet, jpeg
    from edgeface.tools.models import DEFAULT, ensure_models

    ensure_models([load_recipe(name) for name in DEFAULT])
    start = time.perf_counter()
    rows, pictures = [], []
    with (
        tempfile.TemporaryDirectory(prefix="edgeface-demo-") as folder,
        FaceRecognizer.open(Path(folder) / "demo.gallery", threads=threads) as recognizer,
    ):
        for name, photos in ENROL.items():
            recognizer.enroll(name, [read_photo(demo_photo(photo)) for photo in photos])
        for probe in PROBES:
            frame = read_photo(demo_photo(probe))
            stages_ms: dict[str, float] = {}
            people = recognizer.recognize(frame, stages_ms=stages_ms)
            pictures.append(annotate(frame, people))
            for number, person in enumerate(people, 1):
                rows.append(
                    {
                        "photo": probe,
                        "face": number,
                        "name": person.name or "unknown",
                        "similarity": person.similarity,
                        "decision": str(person.decision),
                        **{f"{stage}_ms": stages_ms[stage] for stage in STAGES},
                    }
                )
        policy, runtime = recognizer.policy, recognizer.embedder.engine.description
    try:
        write_atomically(out, jpeg(contact_sheet(pictures)))
    except OSError as error:
        raise EdgefaceError(f"{out}: cannot write the picture: {error}; give another place with --out") from error
    if as_json:
        print_json({"rows": rows, "threshold": vars(policy), "runtime": runtime, "picture": out.absolute()})
        return
    print_table(f"enrolled: {', '.join(ENROL)}", list(rows[0]) if rows else [], [list(row.values()) for row in rows])
    click.echo(describe_rate(policy))
    click.echo(f"  measured on {policy.origin}")
    click.echo(f"runtime: {runtime}; {time.perf_counter() - start:.1f} s")
    click.echo(f"picture: {out.absolute()}")

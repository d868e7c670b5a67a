"""`edgeface bench NAME`: one command for each benchmark module of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

import click

from edgeface.tools.output import print_json, print_table

if TYPE_CHECKING:
    from edgeface.tools.bench.harness import Row

SHARED = ("growth_plot", "harness", "judge", "stream")


class BenchGroup(click.Group):
    """Every module of the folder is a benchmark, but for what they share."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in SHARED)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        return _command(cmd_name)


@click.group("bench", cls=BenchGroup)
def command() -> None:
    """Measure against other libraries: both sides in one run, medians, correctness beside speed.

    Nothing is installed; a peer that is lacking is named. The exit code is 0 even where a target is missed.
    """


def _command(name: str) -> click.Command:
    from edgeface.tools.bench import harness

    module = importlib.import_module(f"edgeface.tools.bench.{name}")

    def run(as_json: bool, threads: int, **options: Any) -> None:
        harness.pin(threads)
        facts = harness.machine_facts()
        rows = []
        for row in module.rows(**options):
            rows.append(row)
            click.echo(f"  {row.summary}", err=True)
        if as_json:
            print_json({"machine": facts, "rows": [row.as_dict() for row in rows]})
        else:
            getattr(module, "show", _show)(module.TITLE, facts, rows)

    options = [
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON instead of a table."),
        click.Option(["--threads"], type=click.IntRange(1, 64), default=getattr(module, "THREADS", 1),
                     show_default=True, help="Processors, and threads of each side."),
        *module.OPTIONS,
    ]  # fmt: skip
    return click.Command(name, callback=run, params=options, help=module.__doc__, short_help=module.TITLE)


def _show(title: str, facts: dict[str, Any], rows: list[Row]) -> None:
    columns = ("name", "ours ms", "peer", "peer ms", "ratio", "target", "correctness")
    table = [
        (
            row.name,
            f"{row.ours_ms:.4g}",
            row.peer or "-",
            "-" if row.peer_ms is None else f"{row.peer_ms:.4g}",
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            "-" if row.target is None else f"{row.target:g}",
            "; ".join([row.correctness, *(f"{k} {v:.4g}" for k, v in (row.extra or {}).items())]),
        )
        for row in rows
    ]
    print_table(title, columns, table)
    click.echo("ratio: peer over ours, above 1 where edgeface is faster")
    click.echo(", ".join(f"{key} {value}" for key, value in facts.items() if value is not None))

"""`edgeface doctor`: what this machine has, what is wrong, and the command that mends it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from edgeface.tools import checks_data, checks_machine
from edgeface.tools.checks_machine import Finding
from edgeface.tools.output import json_option, print_json

#: Exit codes 1 and 2 are those of a failed command and of wrong usage.
EXIT_CODES = {"good": 0, "warning": 3, "fault": 4}
MARKS = {"good": "ok     ", "warning": "WARNING", "fault": "FAULT  "}


def examine(*, root: Path, gallery: Path | None, camera: str | None) -> list[Finding]:
    """All findings, in the order in which a fault explains the next."""
    from edgeface.home import home
    from edgeface.runtime.board import read_board

    board = read_board(root)
    findings = [
        *checks_machine.machine(root, board),
        *checks_machine.memory(root),
        *checks_machine.disk(home()),
        *checks_machine.packages(board),
        *checks_machine.gpu(wanted=board is not None or bool(checks_data.engine_files())),
        *checks_data.models(),
        *checks_data.engines(board),
    ]
    if gallery is not None:
        findings += checks_data.gallery(gallery)
    if camera is not None:
        findings += checks_data.camera(camera, board)
    return findings


@click.command("doctor")
@click.option("--gallery", type=click.Path(dir_okay=False, path_type=Path), envvar="EDGEFACE_GALLERY",
              help="Check this gallery, too (or set EDGEFACE_GALLERY).")  # fmt: skip
@click.option("--camera", help="Take one frame from it: a number, usb, csi, a device, an address or a pipeline.")
@click.option("--root", type=click.Path(file_okay=False, exists=True, path_type=Path), default=Path("/"), hidden=True)
@json_option
def command(gallery: Path | None, camera: str | None, root: Path, as_json: bool) -> None:
    """Examine this machine: board, GPU, packages, models, engines, gallery, camera.

    Changes nothing. Exit code by the worst finding: 0 all good, 3 a warning, 4 a fault.
    """
    findings = examine(root=root, gallery=gallery, camera=camera)
    worst = max((finding.state for finding in findings), key=lambda state: EXIT_CODES[state])
    if as_json:
        print_json({"worst": worst, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{MARKS[finding.state]} {finding.name}: {finding.says}")
            if finding.mend:
                click.echo(f"        mend: {finding.mend}")
    sys.exit(EXIT_CODES[worst])

"""`edgeface inspect`: what an engine is, how it was built and what it measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeface.manifest import check_file, read_manifest
from edgeface.tools.output import json_option, print_json, print_table, print_thresholds


@click.command("inspect")
@click.argument("engine", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def command(engine: Path, as_json: bool) -> None:
    """Show the manifest of the file ENGINE and, for ONNX files, the precision of every layer.

    ENGINE is a model file, such as `edgeface models path sface` prints.

    The file is held against its checksum; it is not run, so a plan for another machine can be looked at.
    """
    manifest = read_manifest(engine)
    content = check_file(engine, manifest)
    layers = []
    if manifest.runtime == "onnxruntime":
        from edgeface.engines.layers import file_layers

        layers = file_layers(content)
    if as_json:
        print_json({**asdict(manifest), "layers": layers})
        return
    facts = [
        ("name", manifest.name),
        ("model id", manifest.model_id),
        ("precision", manifest.precision),
        ("runtime", manifest.runtime),
        ("file", manifest.file),
        ("bytes", manifest.size),
        ("sha256", manifest.sha256),
        ("input", f"{manifest.input_name}, {manifest.preprocessing.color}"),
        ("height, width", manifest.input_size or "any multiple of 32"),
        ("largest batch", manifest.max_batch or "any"),
        *_flat(manifest.build),
    ]
    print_table(str(engine), ("", ""), facts)
    if manifest.thresholds is not None:
        print_thresholds(asdict(manifest.thresholds))
    if layers:
        rows = [(row["layer"], row["operator"], row["precision"], row["weights"]) for row in layers]
        print_table("layers", ("layer", "operator", "precision", "weights"), rows)


def _flat(build: Any, prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in sorted(build.items()):
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, item in enumerate(value):
                rows += _flat(item, f"{prefix}{key}.{number}.")
        elif isinstance(value, list):
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) or "none"))
        else:  # a cosine of 0.998 must not be rounded to 1.00
            rows.append((f"{prefix}{key}", f"{value:.5f}" if isinstance(value, float) else value))
    return rows

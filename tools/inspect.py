"""`edgeface inspect`: what an engine is, how it was built and what it measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeface.manifest import check_file, read_manifest
from edgeface.tools.output import json_option, print_json, print_table


@click.command("inspect")
@click.argument("engine", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def command(engine: Path, as_json: bool) -> None:
    """Show the manifest of the file ENGINE and, for ONNX files, the precision of every layer.

    The file is held against its checksum; it is not run, so a plan for another machine can be looked at.
    """
    manifest = read_manifest(engine)
    content = check_file(engine, manifest)
    layers = _layers(content) if manifest.runtime == "onnxruntime" else []
    if as_json:
        print_json({**asdict(manifest), "layers": layers})
        return
    facts = [
        ("name", manifest.name),
        ("model id", manifest.model_id),
        ("precision", manifest.precision),
        ("runtime", manifest.runtime),
        ("bytes", manifest.size),
        ("sha256", manifest.sha256),
        ("input", f"{manifest.input_name} {manifest.input_size or 'any multiple of 32'}, {manifest.preprocessing.color}"),
        ("largest batch", manifest.max_batch or "any"),
        *_flat(manifest.build),
    ]
    print_table(str(engine), ("", ""), facts)
    if layers:
        rows = [(row["layer"], row["operator"], row["precision"], row["weights"]) for row in layers]
        print_table("layers", ("layer", "operator", "precision", "weights"), rows)


def _flat(build: Any, prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in sorted(build.items()):
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) or "none" if isinstance(value, list) else value))
    return rows


def _layers(content: bytes) -> list[dict[str, Any]]:
    """Layers with weights, in order: INT8 where input and weights both come from DequantizeLinear."""
    import onnx

    from edgeface.engines.graph import WEIGHTED, Graph
    from edgeface.engines.qdq import int8_layers

    graph = Graph(onnx.load_model_from_string(content))
    int8 = set(int8_layers(graph))
    back = {node.output[0]: node.input[0] for node in graph.nodes if node.op_type == "DequantizeLinear"}
    rows = []
    for node in graph.nodes:
        if node.op_type not in WEIGHTED:
            continue
        weight = graph.constants.get(back.get(node.input[1], node.input[1]))
        if weight is not None:
            kind = "int8" if node.name in int8 else {"float16": "fp16"}.get(str(weight.dtype), "fp32")
            rows.append({"layer": node.name, "operator": node.op_type, "precision": kind, "weights": int(weight.size)})
    return rows

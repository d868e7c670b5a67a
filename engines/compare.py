"""Where two versions of a network first differ: layer by layer on the same pictures, and what that does to the outputs.

Both are computed on the CPU by the exact simulation (`session.Runner`): Q/DQ as written, in float32. A plan of TensorRT
has no layers that could be read; of it only the outputs are compared, on the machine that can run it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.engines.compare_layers import Layer, layers_of, match, writers
from edgeface.engines.intake import parse_network
from edgeface.engines.judge import engine_run
from edgeface.engines.pictures import Inputs, embedder_inputs, find_pictures, frame_inputs, split_pictures
from edgeface.engines.prepare import prepare
from edgeface.engines.replay import Replay
from edgeface.engines.session import Runner
from edgeface.engines.tally import Tally
from edgeface.engines.verify import compare_embedders, unit
from edgeface.engines.verify_detector import compare_detectors, decode
from edgeface.errors import EngineIncompatibleError, InputError, ModelError
from edgeface.home import engine_path, model_path
from edgeface.manifest import Manifest, check_file, manifest_path, read_manifest
from edgeface.runtime import load_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeface.detect import Detector
    from edgeface.engines.graph import Graph
    from edgeface.types import FloatArray

    Tick = Callable[[int], None]

#: Fewer pictures fit the gain of a channel that has one value a picture to chance.
LEAST_PICTURES = 8
#: Pixels of one run: what lies between all layers of both networks must fit into a board's memory.
PIXELS = 200_000
#: Honest INT8 keeps every channel of a layer above 21 dB in SFace and YuNet, above 17 on a dozen calibration pictures;
#: weight scales that are wrong by a factor of 2 take one below 10 (docs/quantisation.md).
LIMIT_DB = 15.0
#: Networks that agree this well differ by the order of float32's additions alone.
EQUAL_FROM_DB = 90.0
#: What decides what a network is fed with, in the order in which a difference matters.
FED = ("color", "mean", "std", "input_size", "template")


@dataclass(frozen=True)
class Model:
    """One side of a comparison.

    Attributes:
        path: of the model file. manifest: of it.
        graph: the network, batch normalisations folded; None for a plan.
    """

    path: Path
    manifest: Manifest
    graph: Graph | None


def open_model(path: Path) -> Model:
    """Read a model file by the manifest beside it.

    Raises:
        ModelError: absent, damaged, not ONNX, weights that are NaN, or not what its manifest says.
        InputError: a liveness model.
    """
    manifest = read_manifest(path)
    if manifest.kind == "liveness":
        raise InputError(
            f"{path}: a liveness model; only embedders and detectors can be compared. "
            "`edgeface eval liveness` measures it"
        )
    content = check_file(path, manifest)
    if manifest.runtime != "onnxruntime":
        return Model(path, manifest, None)
    return Model(path, manifest, prepare(parse_network(content, manifest)))


def stored_path(name: str, precision: str) -> Path:
    """The stored file of a recipe: the ONNX network, whose layers can be read, else TensorRT's plan."""
    path, plan = model_path(name, precision), engine_path(name, precision)
    return plan if not manifest_path(path).exists() and manifest_path(plan).exists() else path


def compare(
    a: Model,
    b: Model,
    folder: Path,
    *,
    pictures: int = 64,
    limit_db: float = LIMIT_DB,
    max_side_px: int = 640,
    detector: Detector | None = None,
    tick: Tick | None = None,
) -> dict[str, Any]:
    """Compare two versions of one network on pictures of a folder, which pass through the preprocessing of `a`.

    Args:
        pictures: most pictures, chosen by a hash of people's names.
        limit_db: a layer differs where signal over error of one of its channels, by its own doing, is less.
        max_side_px: a detector's frames are shrunk to it.
        detector: cuts faces out of photographs; not needed for crops and for detectors.
        tick: called with the steps done; there are three for each picture.

    Returns:
        A document for `json`. ``preprocessing``: what differs, by key. ``layers``: a row each with ``input`` and
        ``output``: cosine, ``sqnr_db``, ``mean_error``, ``largest_error`` and ``rms`` in units of `a`, after each
        channel was brought to `a` (``gain_least``, ``gain_most``, ``shift``); ``own_db``, signal over error of the
        layer alone when it reads what it reads in `a`, and ``channel_db``, the same of its worst ``channel``.
        ``first``: the first layer with a channel beyond the limit; ``worst``: the one with the worst channel of all. A
        channel whose weights have a wrong scale looks like an equalised one but for its bias: where that is near 0 the
        error shows in the layer that reads it, so both name the layers before them, ``reads_from``. ``outputs``: with
        the preprocessing of `a` for both; ``outputs_own``: each with its own, where colour, mean or std differ.

    Raises:
        ModelError: two architectures, or `a` itself gives NaN. InputError: too few pictures.
        BuildError: onnxruntime cannot run a network, or no face in the frames. EngineError: a plan does not run here.
    """
    differences = _differences(a.manifest, b.manifest)
    progress = tick or (lambda done: None)
    chosen = split_pictures(find_pictures(folder), count=0, most_held_out=pictures).held_out
    if a.manifest.kind == "embedder":
        inputs, kept, dropped = embedder_inputs(a.manifest, chosen, detector, tick=progress)
    else:
        inputs, kept, dropped = frame_inputs(a.manifest, chosen, max_side_px=max_side_px, tick=progress)
    if len(inputs) < LEAST_PICTURES:
        example = "".join(f": {path}: {reason}" for path, reason in list(dropped.items())[:1])
        raise InputError(
            f"{folder}: {len(inputs)} usable pictures, at least {LEAST_PICTURES} are needed; of {len(chosen)} chosen, "
            f"{len(dropped)} gave none{example}"
        )
    document: dict[str, Any] = {
        "format": "edgeface-comparison", "version": 1, "a": _side(a), "b": _side(b), "limit_db": limit_db,
        "preprocessing": differences,
        "pictures": {"used": len(kept), "dropped": len(dropped), "sha256": inputs.digest()},
        "matched_by": None, "layers": [], "first": None, "worst": None,
    }  # fmt: skip
    if a.graph is None or b.graph is None:
        document["layers_note"] = "a plan of TensorRT cannot be looked into: only outputs are compared"
        outputs = [_run_outputs(model, inputs, progress) for model in (a, b)]
    else:
        pairs, document["matched_by"] = match(layers_of(a.graph), layers_of(b.graph))
        outputs, rows = _run_layers(a, b, pairs, inputs, progress)
        document |= {"layers": rows, **_verdict(a.graph, [one for one, _ in pairs], rows, limit_db)}
    people = [picture.person for picture in kept]
    size = (inputs.pictures.shape[1], inputs.pictures.shape[2])
    document["outputs"] = _outputs(a, outputs[0], outputs[1], people, size)
    if {item["key"] for item in differences} & {"color", "mean", "std"}:
        own = _run_outputs(b, Inputs(inputs.pictures, b.manifest.preprocessing), lambda done: None)
        document["outputs_own"] = _outputs(a, outputs[0], own, people, size)
    return document


def _side(model: Model) -> dict[str, Any]:
    manifest = model.manifest
    keys = ("name", "model_id", "file", "kind", "precision", "runtime", "sha256", "size")
    return {key: getattr(manifest, key) for key in keys}


def _differences(a: Manifest, b: Manifest) -> list[dict[str, Any]]:
    """What the manifests say of preprocessing that is not the same; ModelError where no input could serve both."""
    if a.kind != b.kind:
        raise ModelError(f"different architectures: A is {a.kind} {a.name}, B is {b.kind} {b.name}")
    if a.input_size != b.input_size or a.dimension != b.dimension or a.head != b.head:
        facts = [f"{m.name}: input {m.input_size or 'any'}, dimension {m.dimension}, head {m.head!r}" for m in (a, b)]
        raise ModelError(f"different architectures: {facts[0]} against {facts[1]}; give two versions of one network")
    told = [{**asdict(m), **asdict(m.preprocessing)} for m in (a, b)]
    return [{"key": key, "a": told[0][key], "b": told[1][key]} for key in FED if told[0][key] != told[1][key]]


def _run_layers(
    a: Model, b: Model, pairs: list[tuple[Layer, Layer]], inputs: Inputs, tick: Tick
) -> tuple[list[dict[str, FloatArray]], list[dict[str, Any]]]:
    """Outputs of both networks by meaning, and one row for each pair of layers."""
    assert a.graph is not None
    assert b.graph is not None
    batch = _batch(inputs)
    sides = [[(layer.reads, layer.writes) for layer in one] for one in zip(*pairs, strict=True)]
    runners = []
    for model, graph, tensors in ((a, a.graph, sides[0]), (b, b.graph, sides[1])):
        wanted = [*(name for both in tensors for name in both), *model.manifest.outputs.values()]
        runners.append(Runner(graph, outputs=list(dict.fromkeys(wanted)), batch=batch))
    ones = [one for one, _ in pairs]
    last = {name for output in a.manifest.outputs.values() for name in writers(a.graph, ones, output)}
    tallies = [(Tally(f"the input of {o}"), Tally(f"the output of {o}", fixed=o.name in last)) for o in ones]
    own = [Tally(f"the output of {one} alone", fixed=one.name in last) for one in ones]
    replay = Replay(b.graph, [other for _, other in pairs])
    gathered: list[dict[str, list[FloatArray]]] = [{}, {}]
    for second in (False, True):
        for start in range(0, len(inputs), batch):
            part = inputs.part(start, start + batch)
            values = [runner.run(part) for runner in runners]
            for both, mine, theirs in zip(tallies, *sides, strict=True):
                for tally, one, other in zip(both, mine, theirs, strict=True):
                    (tally.add if second else tally.fit)(values[0][one], values[1][other])
            if second:
                read = [both[0] for both in tallies]
                answers = replay.run([values[0][mine[0]] for mine in sides[0]], read)
                for tally, mine, answer in zip(own, sides[0], answers, strict=True):
                    tally.fit(values[0][mine[1]], answer)
            else:
                for model, found, seen in zip((a, b), gathered, values, strict=True):
                    for meaning, name in model.manifest.outputs.items():
                        found.setdefault(meaning, []).append(seen[name].astype(np.float32))
            tick(len(part))
    rows = [
        {"layer": one.name, "layer_b": other.name, "operator": one.operator, "weights": list(one.weights),
         "precision_a": one.precision, "precision_b": other.precision, **single.alone(),
         "input": read.row(), "output": written.row()}
        for (one, other), single, (read, written) in zip(pairs, own, tallies, strict=True)
    ]  # fmt: skip
    return [{key: np.concatenate(parts) for key, parts in found.items()} for found in gathered], rows


def _batch(inputs: Inputs) -> int:
    height, width = inputs.pictures.shape[1:3]
    return int(np.clip(PIXELS // (height * width), 1, LEAST_PICTURES))


def _verdict(
    graph: Graph, layers: list[Layer], rows: list[dict[str, Any]], limit_db: float
) -> dict[str, dict[str, Any] | None]:
    """The first layer with a channel beyond the limit and the worst of all, with the layers that they read from."""

    def level(number: int) -> float:
        found = rows[number]["channel_db"]
        return -1.0 if found is None else float(found)

    def named(number: int) -> dict[str, Any]:
        facts = {key: rows[number][key] for key in ("layer", "own_db", "channel", "channel_db")}
        return {**facts, "reads_from": writers(graph, layers, layers[number].reads)}

    beyond = [number for number in range(len(rows)) if level(number) < limit_db]
    worst = min(range(len(rows)), key=level)
    return {
        "first": named(beyond[0]) if beyond else None,
        "worst": named(worst) if level(worst) < EQUAL_FROM_DB else None,
    }


def _run_outputs(model: Model, inputs: Inputs, tick: Tick) -> dict[str, FloatArray]:
    """Outputs of a whole network by meaning, nothing of what lies between."""
    if model.graph is None:
        with load_engine(model.path) as engine:
            return dict(engine_run(engine, tick)(inputs))
    names = model.manifest.outputs
    values = Runner(model.graph, outputs=list(names.values()), batch=_batch(inputs)).run(inputs, tick=tick)
    return {meaning: values[name].astype(np.float32) for meaning, name in names.items()}


def _outputs(
    a: Model, one: Mapping[str, FloatArray], other: Mapping[str, FloatArray], people: list[str], size: tuple[int, int]
) -> dict[str, Any]:
    """Angles of embeddings, or boxes and points of faces; figures as in the build's report."""
    if one.keys() != other.keys():
        raise EngineIncompatibleError(f"A gives the outputs {', '.join(one)}, B {', '.join(other)}")
    broken = {meaning for meaning, value in other.items() if not np.isfinite(value).all()}
    if broken:
        return {"not_finite": sorted(broken)}
    if a.manifest.kind == "embedder":
        pair = [unit(value["embedding"], f"embeddings of {side}") for value, side in ((one, "A"), (other, "B"))]
        report = compare_embedders(pair[0], pair[1], people)
        figures = {key: getattr(report, key) for key in ("cosine_mean", "cosine_p1", "cosine_min")}
        return figures | {"losses": [asdict(loss) for loss in report.losses if loss.supported]}
    found = compare_detectors(decode(a.manifest, one, size), decode(a.manifest, other, size))
    errors = found.point_errors
    return {
        "faces": found.faces, "recall": found.recall, "extra": found.extra, "box_overlap": found.box_overlap,
        "points_share_1": found.points_share(0.01), "points_share_3": found.points_share(0.03),
        "point_error_mean": float(np.mean(errors)) if errors else None,
        "point_error_most": max(errors, default=None),
    }  # fmt: skip

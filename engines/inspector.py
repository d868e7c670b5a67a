"""What a plan really computes in: the engine inspector's layers, held against the plan of precisions.

The inspector's JSON is documented for TensorRT 10 and, with other fields, for 11 (NVIDIA's migration guide, "IEngine
Inspector"): 10 writes ``Format/Datatype`` for each tensor, 11 ``DataType`` and ``Format``. ``Metadata`` names the ONNX
nodes of a layer as ``[ONNX Layer: conv_1]``, one after the other with a control character between them.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgeface.engines.layers import file_layers
from edgeface.runtime.cuda import acquire_gpu, release_gpu

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Words for the types that layers compute in, from few to many bits. 10 says "Row major linear FP16 format", 11 "Half".
TYPES = (
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("fp16", re.compile(r"\b(half|fp16|float16)\b", re.IGNORECASE)),
    ("bf16", re.compile(r"\b(bf16|bfloat16)\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\b(float|fp32|float32|tf32)\b", re.IGNORECASE)),
)
BITS = {"int8": 0, "fp16": 1, "bf16": 2, "fp32": 3}
TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format/DataType")
ONNX = re.compile(r"\[ONNX Layer: ([^\]|]+?)\s*(?:\|[^\]]*)?\]")
#: Layers that move or convert data, and compute nothing of their own.
MOVES = ("Reformat", "NoOp", "Constant", "Shape", "Signal", "Wait")


@dataclass(frozen=True)
class PlanLayer:
    """One layer of a plan.

    Attributes:
        layer: its name. type: TensorRT's word for what it is, such as ``CaskConvolution``; ``DLA`` runs there.
        precision: what it computes in, or ``unknown``. inputs, outputs: types of its tensors.
        onnx: the ONNX nodes in it.
    """

    layer: str
    type: str
    precision: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    onnx: tuple[str, ...]


@dataclass
class Inspection:
    """What the inspector says of a plan.

    Attributes:
        layers: in their order. notes: what could not be understood, in words.
    """

    layers: list[PlanLayer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """For the report."""
        return [asdict(layer) for layer in self.layers]

    @property
    def on_dla(self) -> list[str]:
        """The ONNX nodes that run on a DLA core; a layer's own name where it names none."""
        return [name for layer in self.layers if layer.type == "DLA" for name in layer.onnx or (layer.layer,)]


def inspect_plan(trt: Any, logger: Any, plan: bytes, *, dla: int | None = None) -> Inspection:
    """Load a plan, on the DLA core that it was built for, and ask the inspector. Raises EngineError: no GPU opens."""
    gpu = acquire_gpu()
    try:
        with gpu:  # what TensorRT makes must end before the context is left
            text = _ask(trt, logger, plan, dla)
    finally:
        release_gpu(gpu)
    return Inspection(notes=["TensorRT does not load the plan"]) if text is None else read_layers(text)


def _ask(trt: Any, logger: Any, plan: bytes, dla: int | None) -> str | None:
    runtime = trt.Runtime(logger)
    if dla is not None:
        runtime.DLA_core = dla
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def read_layers(text: str) -> Inspection:
    """Read the inspector's JSON. What it does not understand is said in `notes`."""
    try:
        document = json.loads(text)
    except ValueError as error:
        return Inspection(notes=[f"the engine inspector's answer is no JSON ({error})"])
    rows = document.get("Layers") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        keys = ", ".join(sorted(document)) if isinstance(document, dict) else type(document).__name__
        return Inspection(notes=[f"the engine inspector's answer has no list of Layers (it has {keys})"])
    found = Inspection()
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("Name"), str):
            found.layers.append(_layer(row, found.notes))
    if len(found.layers) < len(rows):
        # A plan without detailed profiling gives names alone.
        found.notes.append(f"the engine inspector tells no details of {len(rows) - len(found.layers)} layers")
    found.notes = list(dict.fromkeys(found.notes))
    return found


def _layer(row: Mapping[str, Any], notes: list[str]) -> PlanLayer:
    inputs, outputs = (_types(row.get(key), notes) for key in ("Inputs", "Outputs"))
    weights = row.get("Weights")
    kinds = [inputs[0] if inputs else "unknown"]
    if isinstance(weights, dict) and "Type" in weights:
        kinds.append(_type(str(weights["Type"])))
    known = [kind for kind in kinds if kind in BITS]
    kind = str(row.get("LayerType", ""))
    fused = "{ForeignNode" in str(row["Name"])  # many layers in one: its tensors say nothing of what is inside
    # A layer whose input and weights differ computes in the wider of the two.
    precision = max(known, key=BITS.__getitem__) if known and not fused else "unknown"
    names = ONNX.findall(str(row.get("Metadata", ""))) or re.split(r"\s+\+\s+", str(row["Name"]))
    return PlanLayer(str(row["Name"]), kind, precision, inputs, outputs, tuple(dict.fromkeys(names)))


def _types(tensors: Any, notes: list[str]) -> tuple[str, ...]:
    found = []
    for tensor in tensors if isinstance(tensors, list) else ():
        text = next((str(tensor[key]) for key in TYPE_KEYS if key in tensor), "") if isinstance(tensor, dict) else ""
        kind = _type(text)
        if kind == "unknown" and not re.search(r"\b(u?int(4|32|64)|u?int8|bool|fp8|fp4)", text, re.IGNORECASE):
            notes.append(f"the engine inspector's word for a type is not known: {(text or tensor)!r}"[:160])
        found.append(kind)
    return tuple(found)


def _type(text: str) -> str:
    return next((name for name, pattern in TYPES if pattern.search(text)), "unknown")


def off_plan(onnx: bytes, inspection: Inspection) -> list[str]:
    """Layers with weights that compute in another precision than the ONNX network asks for, in words.

    Args:
        onnx: the strongly typed network that the plan was compiled from.
    """
    if not inspection.layers:
        return [f"precisions of layers were not checked: {'; '.join(inspection.notes) or 'the inspector names none'}"]
    said = list(inspection.notes)
    unseen = []
    for row in file_layers(onnx):
        name, wanted = row["layer"], row["precision"]
        inside = [layer for layer in inspection.layers if name in layer.onnx and layer.type not in MOVES]
        known = [layer for layer in inside if layer.precision in BITS]
        if not known:
            unseen.append(name)
        elif all(layer.precision != wanted for layer in known):
            at = known[0]
            said.append(f"{name} was to run in {wanted}, the plan runs it in {at.precision} ({at.type} {at.layer!r})")
    if unseen:
        said.append(f"the inspector does not tell the precision of {len(unseen)} layers: {', '.join(unseen)}")
    return said

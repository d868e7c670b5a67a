"""Turns a model file as published into the plain float32 ONNX that everything else starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeface.errors import MissingDependencyError, ModelError, install_extra

try:
    import onnx
    import onnx.reference
    from onnx import numpy_helper
except ImportError as error:  # pragma: no cover - the message is tested with a blocked import
    raise MissingDependencyError(
        f"preparing a model needs the package onnx ({error}); {install_extra('build')}"
    ) from error

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeface.engines.recipe import Recipe

#: Operators that only unpack weights: evaluated here when all their inputs are constants.
UNPACKING = ("DequantizeLinear", "Reshape", "Cast", "Transpose")
EXPORT = "export it in float32: a build measures what lower precisions cost against that"


def fold(content: bytes, recipe: Recipe) -> bytes:
    """Fold packed weights, free the batch and picture size where the recipe says so, and check the result.

    Args:
        content: the ONNX file as published.
        recipe: names its input and outputs and says which dimensions are free.

    Returns:
        A plain float32 ONNX file; the same bytes for the same input and onnx version.

    Raises:
        ModelError: not ONNX, or not the network that the recipe describes.
    """
    try:
        model = onnx.load_model_from_string(content)
        check_one_file(model, recipe.name)  # first: the checker would look for the other file
        onnx.checker.check_model(model)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{recipe.name}: not a valid ONNX file: {str(error)[:300]}") from error
    try:
        _fold_constants(model)
    except Exception as error:
        raise ModelError(f"{recipe.name}: its packed weights cannot be unpacked: {str(error)[:300]}") from error
    _free_dimensions(model, recipe)
    _check_against(model, recipe)
    return bytes(model.SerializeToString(deterministic=True))


def check_one_file(model: onnx.ModelProto, name: str) -> None:
    """Refuse weights in other files: they would not be the pinned bytes. Raises ModelError."""
    for item in model.graph.initializer:
        if item.data_location == onnx.TensorProto.EXTERNAL or item.external_data:
            where = next((entry.value for entry in item.external_data if entry.key == "location"), "?")
            raise ModelError(
                f"{name}: weight {item.name!r} lies in another file ({where!r}), which is not read; save the model "
                "as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)"
            )


def _fold_constants(model: onnx.ModelProto) -> None:
    """Evaluate the nodes that unpack constant weights, and drop what nothing reads any more."""
    graph = model.graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    packed = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    folded: dict[str, npt.NDArray[np.generic]] = {}
    kept = []
    for node in graph.node:
        foldable = node.op_type in UNPACKING and all(name in constants for name in node.input)
        halved = node.op_type == "Cast" and foldable and constants[node.input[0]].dtype == np.float16
        if foldable and (node.op_type == "DequantizeLinear" or node.input[0] in packed or halved):
            run = onnx.reference.ReferenceEvaluator(node)
            value = np.asarray(next(iter(run.run(None, {name: constants[name] for name in node.input}))))
            constants[node.output[0]] = folded[node.output[0]] = value
            packed.add(node.output[0])
        else:
            kept.append(node)
    read = {name for node in kept for name in node.input} | {output.name for output in graph.output}
    initializers = [item for item in graph.initializer if item.name in read]
    initializers += [numpy_helper.from_array(np.ascontiguousarray(folded[n]), n) for n in folded if n in read]
    # Old exporters list every weight as an input as well; real inputs are read and have no value in the file.
    inputs = [item for item in graph.input if item.name in read and item.name not in constants]
    for field, items in ((graph.node, kept), (graph.initializer, initializers), (graph.input, inputs)):
        del field[:]
        field.extend(items)
    # Shapes noted inside the graph belong to the published input size; runtimes infer them anew.
    del graph.value_info[:]


def _free_dimensions(model: onnx.ModelProto, recipe: Recipe) -> None:
    """Make the batch, and the picture size of a fully convolutional network, free where the recipe says so.

    A picture size that the file leaves open is the recipe's.
    """
    graph = model.graph
    sizes = [dim for item in graph.input for dim in item.type.tensor_type.shape.dim[2:4]]
    if recipe.max_batch is None:
        for value in (*graph.input, *graph.output):
            for dim in value.type.tensor_type.shape.dim[:1]:
                dim.dim_param = "batch"
        shapes = {item.name: item for item in graph.initializer}
        for node in graph.node:
            if node.op_type != "Reshape" or node.input[1] not in shapes:
                continue
            target = numpy_helper.to_array(shapes[node.input[1]]).copy()
            if len(target) > 1 and target[0] == 1:  # "one picture": 0 copies the batch instead
                target[0] = 0
                shapes[node.input[1]].CopyFrom(numpy_helper.from_array(target, node.input[1]))
    if recipe.input_size is None:
        for dim, name in zip(sizes, ("height", "width"), strict=False):
            dim.dim_param = name
        for output in graph.output:
            for dim in output.type.tensor_type.shape.dim[1:2]:
                dim.dim_param = f"anchors_{output.name}"
        return
    for dim, size in zip(sizes, recipe.input_size, strict=False):
        if not dim.dim_value:
            dim.dim_value = size


def _check_against(model: onnx.ModelProto, recipe: Recipe) -> None:
    """Refuse a network whose input or outputs are not those of the recipe."""
    inputs = [item.name for item in model.graph.input]
    outputs = {item.name: item for item in model.graph.output}
    if inputs != [recipe.input_name]:
        raise ModelError(f"{recipe.name}: expected one input named {recipe.input_name!r}, the file has {inputs}")
    missing = sorted(set(recipe.outputs.values()) - set(outputs))
    if missing:
        raise ModelError(f"{recipe.name}: the file has no output {missing[0]!r}, it has {', '.join(outputs)}")
    for item in (*model.graph.input, *(outputs[name] for name in recipe.outputs.values())):
        kind = item.type.tensor_type.elem_type
        if kind != onnx.TensorProto.FLOAT:
            got = onnx.TensorProto.DataType.Name(kind)
            raise ModelError(f"{recipe.name}: expected {item.name!r} in FLOAT, the file has {got}; {EXPORT}")
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    for node in layers:
        kind = kinds.get(node.input[1], onnx.TensorProto.FLOAT)
        if kind != onnx.TensorProto.FLOAT:
            got = onnx.TensorProto.DataType.Name(kind)
            raise ModelError(f"{recipe.name}: node {node.name!r} has weights in {got}, expected FLOAT; {EXPORT}")
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    height, width = recipe.input_size or (0, 0)
    if len(shape) != 4 or shape[1] != 3 or shape[2:] != [height, width]:
        last = "; its channels stand last: export it with them in front (NCHW)" if shape[3:] == [3] else ""
        raise ModelError(
            f"{recipe.name}: expected an input of shape (N, 3, {height}, {width}), the file has {shape}; 0 is any{last}"
        )
    if recipe.max_batch is not None and shape[0] not in (0, recipe.max_batch):
        raise ModelError(f"{recipe.name}: the recipe says batch {recipe.max_batch}, the file has {shape[0]}")
    if recipe.kind == "embedder":
        dims = outputs[recipe.outputs["embedding"]].type.tensor_type.shape.dim
        if len(dims) != 2 or dims[1].dim_value not in (0, recipe.dimension):
            got = [dim.dim_value for dim in dims]
            raise ModelError(f"{recipe.name}: expected an output of shape (N, {recipe.dimension}), the file has {got}")
    if recipe.liveness is not None:
        columns = recipe.liveness.columns
        got = [dim.dim_value for dim in outputs[recipe.outputs["scores"]].type.tensor_type.shape.dim]
        if not (got[1:] in ([columns], [0]) or (columns == 1 and len(got) == 1)):
            raise ModelError(
                f"{recipe.name}: expected scores of shape (N, {columns}): {recipe.liveness.meaning} of "
                f"{', '.join(recipe.liveness.classes)}; the file has {got}"
            )
    try:
        onnx.checker.check_model(model)
        onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except Exception as error:
        raise ModelError(f"{recipe.name}: the folded network is not valid: {str(error)[:300]}") from error
    if recipe.max_batch is None:
        _check_batch(model, recipe)


def _check_batch(model: onnx.ModelProto, recipe: Recipe) -> None:
    """Refuse a network that takes any batch by its input and one picture by a constant inside."""
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    for value in (*trial.graph.input, *trial.graph.output):
        for dim in value.type.tensor_type.shape.dim[:1]:
            dim.Clear()
    trial.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    what = f"{recipe.name}: the recipe says any batch, but the network does not take two pictures"
    mend = "write the batch that it was exported with under [input], batch = 1, or export it with a dynamic batch"
    try:
        inferred = onnx.shape_inference.infer_shapes(trial, strict_mode=True, data_prop=True)
    except Exception as error:
        raise ModelError(f"{what}: {str(error).splitlines()[0][:300]}; {mend}") from error
    for item in inferred.graph.output:
        rows = [dim.dim_value for dim in item.type.tensor_type.shape.dim[:1]]
        if item.name in recipe.outputs.values() and rows not in ([0], [2]):
            raise ModelError(f"{what}: output {item.name!r} keeps {rows[0] if rows else 'no'} row; {mend}")

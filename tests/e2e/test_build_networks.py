"""`edgeface build` of networks as customers export them: each becomes INT8 and runs as firmware runs it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from build_bench import SIDE
from customer_networks import hybrid, mobile, vision_transformer

from edgeface import load_engine
from edgeface.engines import models
from edgeface.engines.build import build
from edgeface.home import model_path

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx
    from build_bench import Bench


@pytest.mark.parametrize(
    ("network", "layers", "batch"), [(mobile, 5, None), (vision_transformer, 10, 1), (hybrid, 9, None)]
)
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_customers_export_is_built(
    network: Callable[[Any], onnx.ModelProto], layers: int, batch: int | None, precision: Any, bench: Bench, pixels: Any
) -> None:
    content = network(pixels.reshape(-1, SIDE, SIDE, 3)).SerializeToString()
    file = bench.recipe.path.with_name("export.onnx")
    file.write_bytes(content)
    source = replace(bench.recipe.source, file=file, sha256=hashlib.sha256(content).hexdigest())
    recipe = replace(bench.recipe, name="export", source=source, max_batch=batch)
    models.fetch(recipe)
    built = build(recipe, replace(bench.options, precision=precision))
    rows = built.document["layers"]
    assert len(rows) == layers
    assert built.document["int8_share"] == (1.0 if precision == "int8" else 0.0)
    assert built.document["figures"]["cosine_p1"] > 0.995
    tensors = np.ascontiguousarray(pixels[:4, 0, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 64 - 2)
    with load_engine(built.path) as engine, load_engine(model_path("export")) as reference:
        for part in np.split(tensors, 4 if batch else 1):
            a, b = engine.run(part)["embedding"], reference.run(part)["embedding"]
            assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99

"""What edgeface answers on the demo's photographs, as JSON: run on two architectures, compared by test_aarch64.py."""

from __future__ import annotations

import json
import platform

from edgeface import Detector, Embedder, _native, load_engine
from edgeface.home import model_path
from edgeface.photos import read_photo
from edgeface.tools.demo import ENROL, PROBES, demo_photo

detector = Detector(load_engine(model_path("yunet"), threads=1))
embedders = {form: Embedder(load_engine(model_path("sface", form), threads=1)) for form in ("fp32", "int8")}
photos = {}
for name in [*(name for names in ENROL.values() for name in names), *PROBES]:
    frame = read_photo(demo_photo(name))
    faces = detector.detect(frame)
    photos[name] = {
        "boxes": faces.boxes.tolist(),
        "landmarks": faces.landmarks.tolist(),
        "scores": faces.scores.tolist(),
        "templates": {
            form: each.embed(frame, faces.landmarks).tolist()
            for form, each in embedders.items()
            if form == "fp32" or name in PROBES[:2]  # an emulated run takes seconds
        },
    }
print(json.dumps({
    "machine": platform.machine(),
    "instructions": _native.simd(),
    "native": _native.__file__,
    "photos": photos,
}))  # fmt: skip

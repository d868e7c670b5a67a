"""Write golden.bin: inputs of every kernel and what the numpy reference makes of them, for the C++ tests.

    python tests/native/make_golden.py [FILE]

The file is a list of cases: three little-endian uint32 (kernel, number of arrays, 0), then each array as two uint32
(bytes, 0) and its bytes, padded to a multiple of 8. The first array of a case is its float64 parameters, in the order
that kernels_test.cpp reads them. The unit tests check that the file is what this script writes.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import _kernels_py as reference

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

FILE = Path(__file__).with_name("golden.bin")
FORMATS = ("bgr", "rgb", "bgra", "gray", "nv12", "i420", "yuyv")
DTYPES: tuple[type[np.generic], ...] = (np.float32, np.float16, np.int8)
LETTERBOX, ALIGN, DECODE, SCAN_INT8, SCAN_FLOAT32, TEMPLATES, QUALITY = range(1, 8)
TEMPLATE = np.array([(0.34, 0.46), (0.66, 0.46), (0.5, 0.64), (0.37, 0.82), (0.63, 0.82)])


def case(kernel: int, parameters: list[float], *arrays: Array) -> bytes:
    parts = [struct.pack("<III", kernel, len(arrays) + 1, 0)]
    for array in (np.array(parameters, np.float64), *arrays):
        data = np.ascontiguousarray(array).tobytes()
        parts.append(struct.pack("<II", len(data), 0) + data + bytes(-len(data) % 8))
    return b"".join(parts)


def frame(rng: np.random.Generator, pixel_format: str, height: int, width: int) -> Array:
    planar = (height * 3 // 2, width)
    shapes = {"gray": (height, width), "bgra": (height, width, 4), "yuyv": (height, width, 2)}
    shapes |= {"nv12": planar, "i420": planar}
    return rng.integers(0, 256, shapes.get(pixel_format, (height, width, 3)), np.uint8)


def pixel_cases(rng: np.random.Generator) -> list[bytes]:
    # height, width, tensor, picture, place: downwards by area and by line, upwards, identity, one pixel
    shapes: list[tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]] = [
        ((26, 38), (10, 9), (8, 8), (1, 1)),
        ((14, 22), (8, 10), (5, 10), (3, 0)),
        ((8, 6), (9, 15), (9, 9), (0, 6)),
        ((8, 10), (8, 10), (8, 10), (0, 0)),
        ((2, 2), (3, 5), (3, 5), (0, 0)),
        ((34, 26), (7, 5), (6, 5), (1, 0)),
    ]
    found = []
    for index, pixel_format in enumerate(FORMATS):
        for turn, (size, room, resized, offset) in enumerate(shapes):
            if turn not in (index % 6, (index + 2) % 6):
                continue
            source = frame(rng, pixel_format, *size)
            kind, last, rgb = (index + turn) % 3, (index + turn) % 2, turn % 2
            bt709, full = index % 2, turn % 3 == 0
            mean, std, pad = rng.uniform(0, 255, 3), rng.uniform(1, 130, 3), float(rng.integers(0, 256))
            scale = 0.02 if kind == 2 else 1.0
            options: dict[str, Any] = {
                "pixel_format": pixel_format,
                "color": "rgb" if rgb else "bgr",
                "mean": tuple(mean),
                "std": tuple(std),
                "layout": "nhwc" if last else "nchw",
                "scale": scale if kind == 2 else None,
                "matrix": "bt709" if bt709 else "bt601",
                "full_range": bool(full),
            }
            common = [index, *size, source.strides[0], *room, kind, last, rgb, bt709, full, scale, *mean, *std]
            out = np.empty((*room, 3) if last else (3, *room), DTYPES[kind])
            reference.letterbox(source, out, resized=resized, offset=offset, pad=pad, **options)
            found.append(case(LETTERBOX, [*common, *resized, *offset, pad], source, out))
            faces = 2 + turn % 2
            span = np.array([size[1], size[0]])
            points = (TEMPLATE * span * rng.uniform(0.5, 1.2, (faces, 1, 1))).astype(np.float32)
            points += rng.uniform(-2, 2, points.shape).astype(np.float32)
            points[1, :, 0] -= size[1] * 0.6  # half outside
            points[2:] = points[2:, :1]  # no scale: a black crop
            goal = TEMPLATE * np.array([room[1], room[0]])
            outs = np.empty((faces, *out.shape), out.dtype)
            crops = np.empty((faces, *room, 3), np.uint8) if turn % 2 else None
            reference.align(source, points, goal, outs, crops=crops, **options)
            arrays = [source, points, goal, outs] + ([] if crops is None else [crops])
            found.append(case(ALIGN, [*common, faces], *arrays))
    return found


def decode_cases(rng: np.random.Generator) -> list[bytes]:
    found = []
    for turn in range(4):
        anchors, size, strides = 1 + turn % 2, (17, 33), (8, 16, 32)
        outputs: dict[str, Array] = {}
        flat: list[Array] = []
        scores = [("cls", 1), ("obj", 1)] if anchors == 1 else [("score", 1)]
        for stride in strides:
            count = -(-size[0] // stride) * -(-size[1] // stride) * anchors
            for name, columns in (*scores, ("bbox", 4), ("kps", 10)):
                values = rng.uniform(0, 1.1, (count, columns)).astype(np.float32)
                if columns == 1:
                    values = (np.rint(values * 16) / 16).astype(np.float32)  # ties
                values[rng.random(values.shape) < 0.01] = (np.nan, np.inf, -np.inf, 100.0)[turn]
                outputs[f"{name}_{stride}"] = values
                flat.append(values)
        options: dict[str, Any] = {"size": size, "strides": strides, "score_threshold": 0.5, "nms_iou": 0.3}
        options |= {"top_k": (5000, 40)[turn // 2], "max_faces": (None, 4)[turn // 2]}
        decode = reference.decode_yunet if anchors == 1 else reference.decode_scrfd
        boxes, confidences, landmarks = decode(outputs, **options)
        parameters = [*size, anchors, 0.5, 0.3, options["top_k"], options["max_faces"] or 5000, len(confidences)]
        found.append(case(DECODE, parameters, *flat, boxes, confidences, landmarks))
    return found


def template_cases(rng: np.random.Generator) -> list[bytes]:
    found = []
    for rows, columns, queries, k in ((9, 128, 2, 5), (11, 33, 1, 20), (40, 7, 3, 3)):
        x = rng.standard_normal((rows, columns)).astype(np.float32)
        x[3] = 0
        unit = reference.l2_normalize(x)
        int8 = reference.quantize_templates(unit, scale=0.004)
        found.append(case(TEMPLATES, [rows, columns, 0.004], x, unit, int8))
        wide = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
        wide[5] = -128
        mask = (rng.random(rows) < 0.7).astype(np.uint8)
        probes = np.concatenate([wide[5:6], wide[: queries - 1]])
        indices, dots = reference.scan_int8(wide, probes, k, mask=mask)
        found.append(case(SCAN_INT8, [rows, columns, queries, k], wide, probes, mask, indices, dots))
        indices, cosines = reference.scan_float32(unit, unit[:queries], k, mask=mask)
        found.append(case(SCAN_FLOAT32, [rows, columns, queries, k], unit, unit[:queries], mask, indices, cosines))
    return found


def quality_cases(rng: np.random.Generator) -> list[bytes]:
    found = []
    for height, width in ((13, 17), (1, 9), (8, 1), (1, 1), (11, 35)):
        crop = rng.integers(0, 256, (1, height, width, 3), np.uint8)
        measures = [reference.sharpness(crop), reference.exposure(crop), reference.contrast(crop)]
        found.append(case(QUALITY, [height, width], crop, np.concatenate(measures)))
    return found


def golden() -> bytes:
    rng = np.random.default_rng(20261123)
    cases = pixel_cases(rng) + decode_cases(rng) + template_cases(rng) + quality_cases(rng)
    return b"edgeface golden 1\n\0\0\0\0\0\0" + b"".join(cases)


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else FILE).write_bytes(golden())

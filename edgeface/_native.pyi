from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]

def letterbox(
    frame: Array,
    out: Array,
    *,
    resized: tuple[int, int],
    offset: tuple[int, int],
    pixel_format: str,
    color: str,
    mean: Sequence[float],
    std: Sequence[float],
    pad: float,
    layout: str,
    scale: float | None,
    matrix: str,
    full_range: bool,
) -> None: ...
def similarity_transform(landmarks: FloatArray, template: Array) -> npt.NDArray[np.float64]: ...
def align(
    frame: Array,
    landmarks: FloatArray,
    template: Array,
    out: Array,
    *,
    pixel_format: str,
    color: str,
    mean: Sequence[float],
    std: Sequence[float],
    layout: str,
    scale: float | None,
    crops: Array | None,
    matrix: str,
    full_range: bool,
) -> None: ...
def decode_yunet(
    outputs: Mapping[str, FloatArray],
    *,
    size: tuple[int, int],
    strides: Sequence[int],
    score_threshold: float,
    nms_iou: float,
    top_k: int,
    max_faces: int | None,
) -> tuple[FloatArray, FloatArray, FloatArray]: ...
def decode_scrfd(
    outputs: Mapping[str, FloatArray],
    *,
    size: tuple[int, int],
    strides: Sequence[int],
    score_threshold: float,
    nms_iou: float,
    top_k: int,
    max_faces: int | None,
    anchors: int,
) -> tuple[FloatArray, FloatArray, FloatArray]: ...
def l2_normalize(x: FloatArray, out: FloatArray | None) -> FloatArray: ...
def quantize_templates(x: FloatArray, *, scale: float, out: npt.NDArray[np.int8] | None) -> npt.NDArray[np.int8]: ...
def scan_int8(
    templates: npt.NDArray[np.int8], probes: npt.NDArray[np.int8], k: int, *, mask: Array | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]: ...
def scan_float32(
    templates: FloatArray, probes: FloatArray, k: int, *, mask: Array | None
) -> tuple[npt.NDArray[np.int64], FloatArray]: ...
def sharpness(crops: npt.NDArray[np.uint8]) -> FloatArray: ...
def exposure(crops: npt.NDArray[np.uint8]) -> FloatArray: ...
def contrast(crops: npt.NDArray[np.uint8]) -> FloatArray: ...
def read_once(data: npt.NDArray[np.uint8]) -> int: ...
def simd() -> str: ...
def simd_available() -> tuple[str, ...]: ...
def use_simd(name: str) -> None: ...

"""The native kernels against OpenCV, faiss, the numpy reference and the memory, and their share of a whole frame."""

from __future__ import annotations

import time
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface import _kernels_py as reference
from edgeface import _native, kernels
from edgeface.manifest import ARCFACE_112
from edgeface.tools.bench.harness import Row, measure
from edgeface.tools.output import not_nan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeface.types import ByteArray, FloatArray

TITLE = "native kernels"
OPTIONS = [
    click.Option(["--seconds"], type=click.FloatRange(0.1, 60), callback=not_nan, default=1.5, show_default=True,
                 help="Time for each row."),
    click.Option(["--simd"], default=None,
                 help=f"Instruction set: one of {', '.join(_native.simd_available())} (default: the best)."),
    click.Option(["--frame/--no-frame"], default=True, help="Also the share of a whole frame (needs the models)."),
]  # fmt: skip
HEIGHT, WIDTH, SIDE = 1080, 1920, 640
RESIZED, OFFSET, PAD = (360, 640), (140, 0), 114.0
MEAN, STD = (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)
TEMPLATE = np.array(ARCFACE_112, np.float64)


def rows(*, seconds: float, simd: str | None, frame: bool) -> Iterator[Row]:
    """Every row of docs/kernels.md, in its order."""
    if simd is not None:
        _native.use_simd(simd)
    try:
        cv2 = import_module("cv2")
        cv2.setNumThreads(1)
    except ImportError as error:
        yield Row("letterbox, align", float("nan"), f"lacking: {error}", None, None, None, "not measured")
    else:
        yield from _letterbox(cv2, seconds)
        yield from _align(cv2, seconds)
    yield _decode(seconds)
    yield from _scan(seconds)
    if frame:
        yield _whole_frame(seconds)


def picture(cv2: Any) -> ByteArray:
    """(1080, 1920, 3) uint8 BGR: the demo's photographs side by side, each filling a column."""
    from edgeface.photos import read_photo
    from edgeface.tools.demo import demo_photo

    names = ("barack_obama_2005", "emmanuel_macron_2025", "jacinda_ardern_2018", "rishi_sunak_2020")
    columns = []
    for name in names:
        photo = read_photo(demo_photo(f"{name}.jpg"))
        scale = max(HEIGHT / photo.shape[0], WIDTH / 4 / photo.shape[1])
        size = (max(WIDTH // 4, round(photo.shape[1] * scale)), max(HEIGHT, round(photo.shape[0] * scale)))
        large = cv2.resize(photo, size, interpolation=cv2.INTER_LINEAR)
        left = (large.shape[1] - WIDTH // 4) // 2
        columns.append(large[:HEIGHT, left : left + WIDTH // 4])
    return np.ascontiguousarray(np.concatenate(columns, axis=1), np.uint8)


def nv12(cv2: Any, frame: ByteArray) -> ByteArray:
    """(1620, 1920) uint8: the same picture as a camera gives it."""
    planar = cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420)
    chroma = planar[HEIGHT:].reshape(2, -1)
    return np.concatenate([planar[:HEIGHT], chroma.T.reshape(HEIGHT // 2, WIDTH)])


def _difference(ours: FloatArray, theirs: FloatArray, grey: float = 1.0) -> str:
    apart = np.abs(ours - theirs) * grey
    return f"largest difference {apart.max():.2f} grey levels, mean {apart.mean():.3f}"


def _letterbox(cv2: Any, seconds: float) -> Iterator[Row]:
    frame = picture(cv2)
    camera = nv12(cv2, frame)
    out = np.empty((3, SIDE, SIDE), np.float32)
    bottom = SIDE - RESIZED[0] - OFFSET[0]

    def ours(source: ByteArray, pixel_format: str) -> FloatArray:
        kernels.letterbox(source, out, resized=RESIZED, offset=OFFSET, pixel_format=pixel_format, pad=PAD)
        return out

    def theirs(source: ByteArray, interpolation: int, camera_format: bool = False) -> FloatArray:
        if camera_format:
            source = cv2.cvtColor(source, cv2.COLOR_YUV2BGR_NV12)
        small = cv2.resize(source, RESIZED[::-1], interpolation=interpolation)
        padded = cv2.copyMakeBorder(small, OFFSET[0], bottom, 0, 0, cv2.BORDER_CONSTANT, value=(PAD,) * 3)
        blob: FloatArray = cv2.dnn.blobFromImage(padded, 1.0, (SIDE, SIDE), (0, 0, 0), swapRB=False)[0]
        return blob

    peer = f"OpenCV {cv2.__version__}"
    for title, area, target in (("area", True, 4.0), ("its bilinear, which leaves pixels out", False, None)):
        interpolation = cv2.INTER_AREA if area else cv2.INTER_LINEAR
        yield measure(
            "letterbox 1080p BGR to 640x640 float32",
            lambda: ours(frame, "bgr"),
            lambda kind=interpolation: theirs(frame, kind),  # type: ignore[misc]  # mypy: a lambda with a default
            peer_name=f"{peer}: {title}",
            target=target,
            correctness=_difference(ours(frame, "bgr"), theirs(frame, interpolation)) if area else "another filter",
            seconds=seconds,
        )
    whole = np.rint(ours(camera, "nv12"))  # OpenCV rounds the converted frame and the resized one
    yield measure(
        "letterbox 1080p NV12 to 640x640 float32",
        lambda: ours(camera, "nv12"),
        lambda: theirs(camera, cv2.INTER_AREA, True),
        peer_name=f"{peer}: area",
        target=5.0,
        correctness=f"both in whole grey levels: {_difference(whole, theirs(camera, cv2.INTER_AREA, True))}",
        seconds=seconds,
    )
    for source, pixel_format in ((frame, "bgr"), (camera, "nv12")):
        flat = source.reshape(-1)

        def touch(flat: ByteArray = flat) -> None:
            _native.read_once(flat)
            out.fill(PAD)

        yield measure(
            f"letterbox 1080p {pixel_format.upper()} to 640x640 float32",
            lambda source=source, name=pixel_format: ours(source, name),  # type: ignore[misc]  # as above
            touch,
            peer_name=f"reading {flat.size / 1e6:.1f} MB, writing {out.nbytes / 1e6:.1f} MB",
            correctness="the limit of the memory",
            seconds=seconds,
        )


def _faces(count: int) -> FloatArray:
    """(N, 5, 2): points of faces of 60 to 250 px, turned by up to 25 degrees, within a 1080p frame."""
    rng = np.random.default_rng(5)
    points = []
    for _ in range(count):
        angle, size = rng.uniform(-0.44, 0.44), rng.uniform(60, 250) / 112
        turn = size * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        centre = rng.uniform((250, 250), (WIDTH - 250, HEIGHT - 250))
        points.append((TEMPLATE - 56) @ turn + centre + rng.normal(0, size, (5, 2)))
    return np.array(points, np.float32)


def _align(cv2: Any, seconds: float) -> Iterator[Row]:
    frame = picture(cv2)
    for count, target in ((1, 2.0), (16, 3.0)):
        points = _faces(count)
        out = np.empty((count, 3, 112, 112), np.float32)
        transforms = kernels.similarity_transform(points, TEMPLATE)

        def ours(points: FloatArray = points, out: FloatArray = out) -> FloatArray:
            kernels.align(frame, points, TEMPLATE, out, mean=MEAN, std=STD)
            return out

        def theirs(transforms: Any = transforms) -> FloatArray:
            crops = [cv2.warpAffine(frame, matrix, (112, 112)) for matrix in transforms]
            blob: FloatArray = cv2.dnn.blobFromImages(crops, 1 / STD[0], (112, 112), MEAN, swapRB=True)
            return blob

        a, b = ours(), theirs()
        cosine = min(float(np.vdot(p, q) / np.linalg.norm(p) / np.linalg.norm(q)) for p, q in zip(a, b, strict=True))
        yield measure(
            f"align {count} face{'s' if count > 1 else ''} to 112x112 float32",
            ours,
            theirs,
            peer_name=f"OpenCV {cv2.__version__}, transforms given",
            target=target,
            correctness=f"{_difference(a, b, STD[0])}, least cosine of crops {cosine:.6f}",
            seconds=seconds,
        )


def crowd(count: int = 50) -> dict[str, FloatArray]:
    """YuNet's maps for a 640x640 input with that many faces, each seen by nine cells."""
    rng = np.random.default_rng(7)
    outputs: dict[str, FloatArray] = {}
    for stride in (8, 16, 32):
        cells = (SIDE // stride) ** 2
        for name, columns, top in (("cls", 1, 0.1), ("obj", 1, 0.1), ("bbox", 4, 0.5), ("kps", 10, 0.5)):
            outputs[f"{name}_{stride}"] = rng.uniform(0, top, (cells, columns)).astype(np.float32)
    side = SIDE // 8
    for place in rng.choice(9 * 11, count, replace=False):
        row, column = 4 + place // 11 * 8, 4 + place % 11 * 7
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                cell = (row + dy) * side + column + dx
                outputs["cls_8"][cell] = outputs["obj_8"][cell] = rng.uniform(0.8, 0.99)
                outputs["bbox_8"][cell] = (0.5 - dx, 0.5 - dy, *rng.uniform(1.4, 1.6, 2))
    return outputs


def _decode(seconds: float) -> Row:
    outputs = crowd()
    options: dict[str, Any] = {"size": (SIDE, SIDE), "score_threshold": 0.7, "nms_iou": 0.3}
    ours, theirs = kernels.decode_yunet(outputs, **options), reference.decode_yunet(outputs, **options)
    same = all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    return measure(
        "decode and NMS, 640x640 input, 50 faces",
        lambda: kernels.decode_yunet(outputs, **options),
        lambda: reference.decode_yunet(outputs, **options),
        peer_name=f"the numpy reference, numpy {np.__version__}",
        target=15.0,
        correctness=f"{len(ours[1])} faces, {'equal in every bit' if same else 'DIFFERENT'}",
        seconds=seconds,
    )


def _scan(seconds: float) -> Iterator[Row]:
    count, dimension, k = 100_000, 128, 5
    rng = np.random.default_rng(11)
    floats = kernels.l2_normalize(rng.standard_normal((count, dimension)).astype(np.float32))
    probe = kernels.l2_normalize(floats[:1] + rng.normal(0, 0.05, (1, dimension)).astype(np.float32))
    templates, small_probe = kernels.quantize_templates(floats), kernels.quantize_templates(probe)
    found, dots = kernels.scan_int8(templates, small_probe, k)
    checked = reference.scan_int8(templates, small_probe, k)
    exact = np.array_equal(found, checked[0]) and np.array_equal(dots, checked[1])

    def ours() -> object:
        return kernels.scan_int8(templates, small_probe, k)

    name = "int8 scan, 128-d, 100,000 rows, top 5"
    search = _faiss(floats)
    if isinstance(search, str):
        yield measure(name, ours, peer_name=search, target=4.0, seconds=seconds)
    else:
        _, theirs = search(probe, k)
        yield measure(
            name,
            ours,
            lambda: search(probe, k),
            peer_name=f"faiss {metadata.version('faiss-cpu')} IndexFlatIP float32",
            target=4.0,
            correctness=f"{'exact' if exact else 'WRONG'}; {len(set(found[0]) & set(theirs[0]))} of faiss's {k}",
            seconds=seconds,
        )
    flat = templates.view(np.uint8).reshape(-1)
    limit = measure(name, ours, lambda: _native.read_once(flat), seconds=seconds)
    assert limit.peer_ms is not None  # both sides were given
    yield Row(
        name, limit.ours_ms, "reading those 12.8 MB once", limit.peer_ms, limit.ratio, 1 / 1.5,
        f"{flat.size / limit.peer_ms / 1e6:.1f} GB/s read, {flat.size / limit.ours_ms / 1e6:.1f} GB/s scanned",
    )  # fmt: skip
    if not isinstance(search, str):
        rows_found, _ = kernels.scan_float32(floats, probe, k)
        _, theirs = search(probe, k)
        yield measure(
            "float32 scan, 128-d, 100,000 rows, top 5",
            lambda: kernels.scan_float32(floats, probe, k),
            lambda: search(probe, k),
            peer_name=f"faiss {metadata.version('faiss-cpu')} IndexFlatIP float32",
            correctness=f"rows {'as faiss' if np.array_equal(rows_found, theirs) else 'NOT as faiss'}",
            seconds=seconds,
        )


def _faiss(floats: FloatArray) -> Callable[[FloatArray, int], Any] | str:
    try:
        faiss = import_module("faiss")
    except ImportError as error:
        return f"lacking: {error}"
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(floats.shape[1])
    index.add(floats)
    search: Callable[[FloatArray, int], Any] = index.search
    return search


def _whole_frame(seconds: float) -> Row:
    """Time of a whole recognition at 1080p with four faces, against the time inside its networks."""
    name = "recognise a 1080p frame with 4 faces: all but the networks"
    try:
        cv2 = import_module("cv2")
        with _Watched() as watched:
            return watched.row(name, picture(cv2), seconds)
    except ImportError as error:
        return Row(name, float("nan"), f"lacking: {error}", None, None, None, "not measured")


class _Watched:
    """The default recogniser with a gallery in memory, its engines timed."""

    def __enter__(self) -> _Watched:
        from contextlib import ExitStack
        from pathlib import Path
        from tempfile import TemporaryDirectory

        from edgeface import FaceRecognizer
        from edgeface.engines.recipe import load_recipe
        from edgeface.tools.models import DEFAULT, ensure_models

        yunet, sface = ensure_models([load_recipe(name) for name in DEFAULT])
        self._stack = ExitStack()
        folder = Path(self._stack.enter_context(TemporaryDirectory()))
        self.recognizer = self._stack.enter_context(
            FaceRecognizer.open(folder / "bench.gallery", detector=yunet, embedder=sface, threads=1)
        )
        self.network_s = 0.0
        for engine in (self.recognizer.detector.engine, self.recognizer.embedder.engine):
            self._time(engine)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _time(self, engine: Any) -> None:
        run = engine.run

        def timed(tensor: FloatArray) -> Any:
            start = time.perf_counter()
            try:
                return run(tensor)
            finally:
                self.network_s += time.perf_counter() - start

        engine.run = timed

    def row(self, name: str, frame: ByteArray, seconds: float) -> Row:
        rng = np.random.default_rng(13)
        dimension = self.recognizer.embedder.dimension
        for person in range(100):
            rows = kernels.l2_normalize(rng.standard_normal((10, dimension)).astype(np.float32))
            self.recognizer.gallery.add(f"person {person}", rows)
        faces = len(self.recognizer.recognize(frame))
        totals: list[float] = []
        others: list[float] = []
        end = time.perf_counter() + max(seconds, 3)
        while len(totals) < 10 or time.perf_counter() < end:
            self.network_s = 0.0
            start = time.perf_counter()
            self.recognizer.recognize(frame)
            total = time.perf_counter() - start
            totals.append(total * 1e3)
            others.append((total - self.network_s) * 1e3)
        total_ms, other_ms = float(np.median(totals)), float(np.median(others))
        share = float(np.median(np.array(others) / np.array(totals)))
        return Row(
            name, other_ms, "the whole frame", total_ms, 1 / share, 20.0,
            f"{faces} faces, gallery of 1,000 templates; share {share:.1%}",
        )  # fmt: skip

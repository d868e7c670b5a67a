"""The recognition loop on a stream composed of photographs: speed, names, tracks and the time budget.

Each row is one stream. The peers see every n-th frame of the same stream in the same run: edgeface without tracks
(`FaceRecognizer.recognize` on each frame), and OpenCV's YuNet and SFace on the same two network files.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface.tools.bench.harness import Row
from edgeface.tools.output import not_nan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeface import FaceRecognizer
    from edgeface.tools.bench.judge import Named
    from edgeface.tools.bench.stream import Cutout
    from edgeface.types import ByteArray

TITLE = "the recognition loop on a composed stream"
OPTIONS = [
    click.Option(["--images"], type=click.Path(file_okay=False, path_type=Path), default=None,
                 help="Folder with a folder of photographs a person (default: the few that come with edgeface)."),
    click.Option(["--frames"], type=click.IntRange(30), default=600, show_default=True, help="Of each stream."),
    click.Option(["--budget-ms"], type=click.FloatRange(1), callback=not_nan, default=100.0, show_default=True),
    click.Option(["--every"], type=click.IntRange(1), default=10, show_default=True,
                 help="The peers see every n-th frame."),
    click.Option(["--faces"], type=click.IntRange(1, 64), multiple=True, default=(1, 4, 16), show_default=True),
    click.Option(["--size"], type=click.Choice(["640x480", "1920x1080"]), multiple=True,
                 default=("640x480", "1920x1080"), show_default=True),
    click.Option(["--strangers"], type=click.IntRange(0), default=0, show_default=True,
                 help="Also show strangers only, for so many frames, and count the names they are given."),
    click.Option(["--clock"], type=click.Choice(["wall", "cpu"]), default="wall", show_default=True,
                 help="cpu counts this thread's processor time: what a core of its own would take, on a busy machine."),
    click.Option(["--seed"], type=click.IntRange(0), default=1, show_default=True, help="Of the streams."),
]  # fmt: skip
ASKED_FPIR = 1e-3
MOST_ENROLLED, MOST_STRANGERS = 30, 90


def rows(
    *, images: Path | None, frames: int, budget_ms: float, every: int, faces: tuple[int, ...], size: tuple[str, ...],
    strangers: int, clock: str, seed: int,
) -> Iterator[Row]:  # fmt: skip
    """Two rows a stream: against edgeface without tracks, and against OpenCV's pipeline."""
    from edgeface import FaceRecognizer
    from edgeface.engines.recipe import load_recipe
    from edgeface.tools.models import DEFAULT, ensure_models

    now = time.thread_time if clock == "cpu" else time.perf_counter
    models = ensure_models([load_recipe(name) for name in DEFAULT])
    with (
        tempfile.TemporaryDirectory(prefix="edgeface-bench-") as folder,
        FaceRecognizer.open(Path(folder) / "bench.gallery", fpir=ASKED_FPIR, threads=1) as recognizer,
    ):
        known, unknown = _people(images, recognizer)
        for name in size:
            width, height = (int(side) for side in name.split("x"))
            for count in faces:
                yield from _stream(
                    f"{name}, {count} face{'s' * (count > 1)}", known + unknown[: len(known) // 3 + 1], (height, width),
                    count, frames, budget_ms, every, seed, recognizer, models, now,
                )  # fmt: skip
        if strangers:
            yield _strangers_row(unknown, strangers, budget_ms, seed, recognizer, now)


def _people(images: Path | None, recognizer: FaceRecognizer) -> tuple[list[Cutout], list[Cutout]]:
    """Enrol each person's first photograph that passes the gate; the heads of the others, and heads of strangers."""
    from edgeface.errors import EnrolmentError, InputError
    from edgeface.photos import SUFFIXES, read_photo
    from edgeface.tools.bench.stream import cut_out
    from edgeface.tools.demo import ENROL, PROBES, demo_photo

    if images is None:
        folders = {name: [demo_photo(photo) for photo in photos] for name, photos in ENROL.items()}
        for name, photo in zip(ENROL, PROBES, strict=False):
            folders[name].append(demo_photo(photo))
        folders.update({photo.split("_20")[0]: [demo_photo(photo)] for photo in PROBES[2:]})
    else:
        folders = {
            path.name: sorted(photo for photo in path.iterdir() if photo.suffix.lower() in SUFFIXES)
            for path in sorted(images.iterdir())
            if path.is_dir()
        }
    known: list[Cutout] = []
    unknown: list[Cutout] = []
    for name, photos in folders.items():
        if len(photos) >= 2 and len(recognizer.gallery) < MOST_ENROLLED:
            try:
                recognizer.enroll(name, read_photo(photos[0]))
            except EnrolmentError:  # several faces, mostly: the next person will do
                continue
            heads, most = known, photos[1:4]
        elif len(photos) == 1 and len(unknown) < MOST_STRANGERS:
            heads, most = unknown, photos[:1]
        else:
            continue
        heads += [cut for photo in most if (cut := cut_out(name, read_photo(photo), recognizer.detector)) is not None]
    if not known or not unknown:
        raise InputError(f"{images}: expected people with two photographs, to enrol, and with one, as strangers")
    return known, unknown


def _stream(
    title: str, cutouts: list[Cutout], size: tuple[int, int], faces: int, frames: int, budget_ms: float, every: int,
    seed: int, recognizer: FaceRecognizer, models: list[Path], now: Callable[[], float],
) -> Iterator[Row]:  # fmt: skip
    from edgeface.tools.bench.judge import Judge, Named
    from edgeface.tools.bench.stream import ComposedStream
    from edgeface.video import Frame, RecognitionLoop

    enrolled = {person.name for person in recognizer.gallery.people()}
    peers: dict[str, Callable[[ByteArray], list[Named]]] = {"without tracks": _without_tracks(recognizer)}
    try:
        name, opencv = _opencv(recognizer, models)
        peers[name] = opencv
    except ImportError as error:
        peers[f"lacking: {error}"] = lambda image: []
    stream = ComposedStream(cutouts, size=size, faces=faces, frames=frames, seed=seed)
    _warm_up(recognizer, stream, peers)
    loop = RecognitionLoop(recognizer, budget_ms=budget_ms, clock=now)
    judges = {name: Judge(enrolled) for name in ("loop", "loop, sampled", *peers)}
    times: dict[str, list[float]] = {name: [] for name in ("loop", *peers)}
    tracks: set[int] = set()
    for number, (image, truths) in enumerate(stream):
        time_s = number / stream.fps
        result = loop.step(Frame(image, number, time_s, now()))
        times["loop"].append(result.latency_ms)
        named = [Named(face.box, face.name, face.track_id) for face in result.faces]
        tracks.update(face.track_id for face in result.faces)
        judges["loop"].frame(time_s, truths, named)
        if number % every == every - 1:
            judges["loop, sampled"].frame(time_s, truths, named)
            for name, run in peers.items():
                start = now()
                named = run(image)
                times[name].append((now() - start) * 1e3)
                judges[name].frame(time_s, truths, named)
    latencies = np.array(times["loop"])
    judge = judges["loop"]
    waits = list(judge.named_after_s.values())
    extra = {
        "fps": 1e3 / float(latencies.mean()),
        "p99_ms": float(np.percentile(latencies, 99)),
        "over_budget_share": float((latencies > budget_ms).mean()),
        "embeddings_per_track": loop.counts.embeddings / max(len(tracks), 1),
        "fewer_embeddings": loop.counts.faces / max(loop.counts.embeddings, 1),
        "switches": judge.switches,
        "wrong_names": judge.wrong,
        "first_name_s": float(np.median(waits)) if waits else float("nan"),
        "budget_level": loop.budget.level,
    }
    ours = float(np.median(latencies))
    for name in peers:
        theirs = np.array(times[name])
        said = (
            f"right names {judges['loop, sampled'].right_share:.1%}, peer {judges[name].right_share:.1%}; "
            f"wrong {judges['loop, sampled'].wrong} of {judges['loop, sampled'].due}, peer {judges[name].wrong}"
        )
        late = float((theirs > budget_ms).mean())
        over = {"peer_p99_ms": float(np.percentile(theirs, 99)), "peer_over_budget_share": late}
        median = None if name.startswith("lacking") else float(np.median(theirs))
        ratio = None if median is None else median / ours
        yield Row(title, ours, name, median, ratio, None, said, {**extra, **over})


def _warm_up(recognizer: FaceRecognizer, stream: Any, peers: dict[str, Callable[[ByteArray], list[Named]]]) -> None:
    """Run everything once outside the measurement, on a stream of the same size but other people and places."""
    from edgeface.tools.bench.stream import ComposedStream
    from edgeface.video import Frame, RecognitionLoop

    loop = RecognitionLoop(recognizer)
    warm = ComposedStream(stream._cutouts, size=stream.size, faces=stream.faces, frames=20, seed=0)
    for number, (image, _) in enumerate(warm):
        loop.step(Frame(image, number, number / 30, time.perf_counter()))
    for run in peers.values():
        run(image)


def _without_tracks(recognizer: FaceRecognizer) -> Callable[[ByteArray], list[Named]]:
    from edgeface.tools.bench.judge import Named

    return lambda image: [Named(face.box, face.name) for face in recognizer.recognize(image)]


def _opencv(recognizer: FaceRecognizer, models: list[Path]) -> tuple[str, Callable[[ByteArray], list[Named]]]:
    """OpenCV's two classes, with the detector at the same longest side and the same templates and threshold."""
    import cv2

    from edgeface.tools.bench.judge import Named

    cv2.setNumThreads(1)
    try:
        sface = cv2.FaceRecognizerSF.create(str(models[1]), "")
    except cv2.error as error:
        raise ImportError(f"OpenCV {cv2.__version__} cannot read these models ({error.err})") from error
    yunet: dict[tuple[int, int], Any] = {}
    side = recognizer.detector.max_side_px
    gallery, policy = recognizer.gallery, recognizer.policy

    def run(image: ByteArray) -> list[Named]:
        ratio = min(1.0, side / max(image.shape[:2]))
        size = (round(image.shape[1] * ratio), round(image.shape[0] * ratio))
        if size not in yunet:
            yunet[size] = cv2.FaceDetectorYN.create(str(models[0]), "", size, 0.7, 0.3, 5000)
        _, faces = yunet[size].detect(image if ratio == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        named = []
        for row in [] if faces is None else faces:
            row[:14] /= ratio
            feature = np.array(sface.feature(sface.alignCrop(image, row)), np.float32).reshape(1, -1)
            matches = gallery.search(feature / np.linalg.norm(feature), k=2)[0]
            box = np.array([row[0], row[1], row[0] + row[2], row[1] + row[3]], np.float32)
            named.append(Named(box, matches.names[0] if policy.decide(matches) == "match" else None))
        return named

    return f"OpenCV {cv2.__version__} YuNet + SFace", run


def _strangers_row(
    cutouts: list[Cutout], frames: int, budget_ms: float, seed: int, recognizer: FaceRecognizer,
    now: Callable[[], float],
) -> Row:  # fmt: skip
    """Strangers only: how many frames give one of them a name."""
    from edgeface.tools.bench.judge import Judge, Named
    from edgeface.tools.bench.stream import ComposedStream
    from edgeface.video import Frame, RecognitionLoop

    loop = RecognitionLoop(recognizer, budget_ms=budget_ms, clock=now)
    judge = Judge({person.name for person in recognizer.gallery.people()})
    latencies, wrong_frames = [], 0
    for number, (image, truths) in enumerate(
        ComposedStream(cutouts, size=(480, 640), faces=1, frames=frames, seed=seed)
    ):
        result = loop.step(Frame(image, number, number / 30, now()))
        latencies.append(result.latency_ms)
        judge.frame(number / 30, truths, [Named(face.box, face.name) for face in result.faces])
        wrong_frames += any(face.name is not None for face in result.faces)
    said = f"{wrong_frames} of {frames} frames name a stranger, {ASKED_FPIR:g} asked: at most {ASKED_FPIR * frames:g}"
    counts = (len({cut.person for cut in cutouts}), len(recognizer.gallery), judge.strangers)
    extra = dict(zip(("strangers", "enrolled", "faces"), map(float, counts), strict=True))
    return Row("strangers only", float(np.median(latencies)), "", None, None, None, said, extra)

"""Acceptance of edgeface on a board, in one command: builds, parity, accuracy, speed, power, memory, soak.

    python jetson/accept.py --calibration PHOTOS --minutes 30 --out acceptance

It writes `acceptance.json` and one page with plots, `acceptance.html`. The same command runs on any machine with the
CPU runtime; what does not apply there says so and why. Exit code 1 when a section failed.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeface import Embedder, FaceRecognizer, load_engine
from edgeface.errors import EdgefaceError
from edgeface.home import engine_path, home, model_path, write_atomically
from edgeface.manifest import is_stored
from edgeface.photos import read_photo
from edgeface.runtime.board import read_board
from edgeface.tools.bench.harness import machine_facts
from edgeface.tools.demo import ENROL, PROBES, demo_photo

MODELS = ("yunet", "sface")
FACES = (1, 4, 16)
SIDE_PX = 160  # of one face's picture in the made-up frames: 16 of them make 640 x 640
#: Of an embedding by TensorRT and by onnxruntime. The float part of an INT8 plan is FP16, that of the ONNX file is
#: float32, and what rounds to the other side moves by a whole step of INT8: with onnxruntime on both, embeddings by
#: SFace of 39 photographs of LFW have 0.9989 in the mean and 0.9982 at least, and both networks 0.9985 with float32.
LEAST_COSINE = {"fp32": 0.999, "fp16": 0.999, "mixed": 0.995, "int8": 0.995}
MOST_GROWTH_MB = 20.0  # of the resident memory in a soak, after its first quarter


@dataclass
class Section:
    """One part of the acceptance: ``passed``, ``failed`` or ``not applicable``, and why."""

    name: str
    state: str = "passed"
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def build(calibration: Path | None, precision: str) -> Section:
    """Both engines, by `edgeface build`, each in a process of its own."""
    section = Section("build")
    try:
        from edgeface.runtime.cuda import import_pycuda
        from edgeface.runtime.tensorrt import import_tensorrt

        import_tensorrt("tensorrt")
        import_pycuda()
    except EdgefaceError as error:
        # A board whose TensorRT is not there would otherwise be accepted on its CPU.
        return Section("build", "not applicable" if read_board() is None else "failed", str(error))
    if calibration is None:
        return Section("build", "failed", "photographs to calibrate on are needed: --calibration FOLDER")
    for name in MODELS:
        start = time.perf_counter()
        for target in ("onnxruntime", "tensorrt"):
            command = [sys.executable, "-m", "edgeface.tools", "build", name, "--target", target]
            command += ["--precision", precision, "--calibration", str(calibration.resolve())]
            # Not in this folder: in a checkout Python would take its `edgeface/`, in which nothing is built.
            environment = {**os.environ, "EDGEFACE_HOME": str(home())}  # it may be relative to this folder
            done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                section.state = "failed"
                section.reason = f"{' '.join(command[2:])}: {done.stderr.strip()[-300:]}"
        section.figures[f"{name}_s"] = round(time.perf_counter() - start, 1)
    return section


def parity(precision: str, recognizer: FaceRecognizer) -> Section:
    """The embedder on TensorRT against onnxruntime on the same model: cosines of the demo's faces."""
    engine_file, onnx_file = engine_path("sface", precision), model_path("sface", precision)
    for path in (engine_file, onnx_file):
        if not is_stored(path):
            return Section("parity", "not applicable", f"{path} is not there")
    with load_engine(engine_file) as ours, load_engine(onnx_file) as theirs:
        cosines = []
        for name in PROBES:
            photo = read_photo(demo_photo(name))
            points = recognizer.detector.detect(photo).landmarks
            pair = [Embedder(engine).embed(photo, points) for engine in (ours, theirs)]
            cosines += [float(value) for value in np.einsum("nd,nd->n", *pair)]
    least, wanted = min(cosines), min(LEAST_COSINE[engine.manifest.precision] for engine in (ours, theirs))
    state = "passed" if least >= wanted else "failed"
    return Section("parity", state, f"least cosine {least:.5f}, at least {wanted} wanted", {"cosines": cosines})


def accuracy(recognizer: FaceRecognizer) -> Section:
    """The demo: two people enrolled, recognised in other photographs, strangers not."""
    for name, photos in ENROL.items():
        recognizer.enroll(name, [read_photo(demo_photo(photo)) for photo in photos])
    wrong = []
    for probe in PROBES:
        known = next((name for name in ENROL if probe.startswith(name.lower().replace(" ", "_"))), None)
        names = [person.name for person in recognizer.recognize(read_photo(demo_photo(probe)))]
        if names != [known]:
            wrong.append(f"{probe}: expected {known}, got {names}")
    return Section("accuracy", "failed" if wrong else "passed", "; ".join(wrong), {"photographs": len(PROBES)})


def made_up_frame(faces: int) -> Any:
    """(640, 640, 3) uint8 BGR with that many faces, in a grid of the demo's photographs."""
    import cv2

    frame = np.full((4 * SIDE_PX, 4 * SIDE_PX, 3), 96, np.uint8)
    tiles = [cv2.resize(read_photo(demo_photo(name)), (SIDE_PX, SIDE_PX)) for name in PROBES]
    for number in range(faces):
        row, column = divmod(number, 4)
        place = np.s_[row * SIDE_PX : (row + 1) * SIDE_PX, column * SIDE_PX : (column + 1) * SIDE_PX]
        frame[place] = tiles[number % len(tiles)]
    return frame


def speed(recognizer: FaceRecognizer, seconds: float) -> Section:
    """Latency from the frame to the decisions, and frames a second, for 1, 4 and 16 faces."""
    section = Section("speed")
    for faces in FACES:
        frame = made_up_frame(faces)
        found = len(recognizer.recognize(frame))
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            start = time.perf_counter()
            recognizer.recognize(frame)
            times.append((time.perf_counter() - start) * 1e3)
        if found != faces:
            section.state, section.reason = "failed", f"{found} faces found of {faces} in the made-up frame"
        section.figures[f"{faces} faces"] = {
            "p50_ms": round(statistics.median(times), 2),
            "p99_ms": round(float(np.percentile(times, 99)), 2),
            "frames_per_s": round(1e3 / statistics.fmean(times), 1),
        }
    return section


def power(recognizer: FaceRecognizer, seconds: float) -> Section:
    """Power of the board while it recognises, from tegrastats."""
    program = shutil.which("tegrastats")
    if program is None:
        return Section("power", "not applicable", "there is no tegrastats: not a Jetson")
    frame = made_up_frame(4)
    meter = subprocess.Popen([program, "--interval", "200"], stdout=subprocess.PIPE, text=True)
    try:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            recognizer.recognize(frame)
    finally:
        meter.terminate()
        said = meter.communicate()[0]
    # "VDD_IN 4920mW/4920mW" on Orin, "VIN_SYS_5V0 ..." beside it; AGX boards have no sum: theirs are added up.
    lines = [line for line in said.splitlines() if "mW" in line]
    total = [
        sum(int(mw) for mw in re.findall(r"VDD_IN (\d+)mW", line) or re.findall(r"(\d+)mW/", line)) for line in lines
    ]
    if not total:
        return Section("power", "failed", f"tegrastats tells no power: {said[:200]!r}")
    return Section("power", figures={"mean_w": round(statistics.fmean(total) / 1e3, 2), "most_w": max(total) / 1e3})


def resident_mb() -> float:
    """Resident memory of this process."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")


def temperature_c() -> float | None:
    """The hottest thermal zone; None where the system tells none."""
    seen = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            seen.append(int(zone.read_text()) / 1e3)
        except (OSError, ValueError):
            continue  # a zone of a part that is switched off
    return max(seen, default=None)


def soak(recognizer: FaceRecognizer, minutes: float) -> Section:
    """Frames for minutes on end: errors, memory, temperatures, frames a second."""
    frame = made_up_frame(4)
    section = Section("soak")
    samples: list[dict[str, float | None]] = []
    start = last = time.perf_counter()
    total = frames = 0
    pause = max(0.2, minutes * 60 / 300)
    while time.perf_counter() - start < minutes * 60:
        if len(recognizer.recognize(frame)) != 4:
            section.state, section.reason = "failed", f"a face was lost in frame {total}"
        total, frames = total + 1, frames + 1
        now = time.perf_counter()
        if now - last >= pause:
            seen = {"minute": (now - start) / 60, "frames_per_s": frames / (now - last)}
            samples.append({**seen, "resident_mb": resident_mb(), "temperature_c": temperature_c()})
            last, frames = now, 0
    settled = [float(sample["resident_mb"] or 0) for sample in samples[len(samples) // 4 :]]
    growth = settled[-1] - settled[0] if settled else 0.0
    if growth > MOST_GROWTH_MB:
        section.state, section.reason = "failed", f"memory grew by {growth:.1f} MB, {MOST_GROWTH_MB} allowed"
    section.figures = {"frames": total, "memory_growth_mb": round(growth, 2), "samples": samples}
    return section


def plot(title: str, samples: list[dict[str, Any]], key: str) -> str:
    """A line over the minutes, as SVG; nothing where the system told nothing."""
    points = [(sample["minute"], sample[key]) for sample in samples if sample[key] is not None]
    if len(points) < 2:
        return ""
    (left, right), values = (points[0][0], points[-1][0]), [value for _, value in points]
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    path = " ".join(
        f"{600 * (x - left) / ((right - left) or 1):.1f},{140 - 120 * (y - low) / spread:.1f}" for x, y in points
    )
    return (
        f"<h3>{html.escape(title)}: {low:.1f} to {high:.1f}</h3><svg viewBox='0 0 600 150' width='600'>"
        f"<polyline points='{path}' fill='none' stroke='#2a6' stroke-width='2'/></svg>"
    )


def page(document: dict[str, Any]) -> str:
    """One page for people."""
    rows = []
    samples: list[dict[str, Any]] = []
    for section in document["sections"]:
        samples += section["figures"].pop("samples", [])
        cells = (section["name"], section["state"], section["reason"], json.dumps(section["figures"]))
        rows.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    titles = {"frames_per_s": "frames a second", "resident_mb": "resident memory, MB", "temperature_c": "hottest, C"}
    plots = "".join(plot(title, samples, key) for key, title in titles.items())
    facts = html.escape(json.dumps(document["machine"], indent=1))
    return (
        "<!doctype html><meta charset='utf-8'><title>edgeface acceptance</title>"
        "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto}td{border:1px solid #ccc;padding:4px}</style>"
        f"<h1>edgeface on {html.escape(document['board'])}</h1><table>{''.join(rows)}</table>{plots}<pre>{facts}</pre>"
    )


def main(words: list[str] | None = None) -> int:
    """Run all sections and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("acceptance"), help="folder of the report")
    parser.add_argument("--calibration", type=Path, help="photographs to calibrate the engines on")
    parser.add_argument("--precision", default="int8", help="of the engines that are built and used")
    parser.add_argument("--runtime", choices=["auto", "tensorrt", "onnxruntime"], default="auto")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the soak")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement of speed and power")
    given = parser.parse_args(words)
    board = read_board()
    sections = [build(given.calibration, given.precision)]
    try:
        with tempfile.TemporaryDirectory(prefix="edgeface-accept-") as folder:
            options = {"precision": given.precision, "runtime": given.runtime}
            with FaceRecognizer.open(Path(folder) / "accept.gallery", **options) as recognizer:
                runtimes = {role: asdict(choice) for role, choice in recognizer.runtimes.items()}
                sections += [parity(given.precision, recognizer), accuracy(recognizer)]
                sections += [speed(recognizer, given.seconds), power(recognizer, given.seconds)]
                sections += [soak(recognizer, given.minutes)]
    except EdgefaceError as error:
        runtimes = {}
        sections.append(Section("recogniser", "failed", str(error)))
    sections.append(Section("memory", figures={"resident_mb": round(resident_mb(), 1)}))
    document = {
        "board": "no Jetson" if board is None else f"{board.model}, JetPack {board.jetpack}, mode {board.power_mode}",
        "machine": machine_facts(),
        "runtimes": runtimes,
        "sections": [asdict(section) for section in sections],
    }
    text = json.dumps(document, indent=1, default=str)
    given.out.mkdir(parents=True, exist_ok=True)
    write_atomically(given.out / "acceptance.json", text.encode())
    write_atomically(given.out / "acceptance.html", page(document).encode())
    for section in sections:
        print(f"{section.state:14s} {section.name}: {section.reason or json.dumps(section.figures)[:160]}")
    print(f"report: {given.out / 'acceptance.html'}")
    return int(any(section.state == "failed" for section in sections))


if __name__ == "__main__":
    sys.exit(main())

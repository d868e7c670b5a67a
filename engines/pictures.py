"""Calibration and verification pictures: a fixed, hashed choice, and people who are in one set only."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeface import kernels
from edgeface.detect import Detector
from edgeface.errors import BuildError, InputError
from edgeface.photos import find_photos, read_photo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from edgeface.engines.recipe import Recipe
    from edgeface.manifest import Manifest, Preprocessing
    from edgeface.types import ByteArray, FloatArray

    Tick = Callable[[int], None]


@dataclass(frozen=True)
class Picture:
    """A picture file and the person it shows: its folder inside the set, or the file itself in a flat folder."""

    path: Path
    person: str


@dataclass(frozen=True)
class Split:
    """Pictures to calibrate on and pictures to verify on. No person is in both."""

    calibration: list[Picture]
    held_out: list[Picture]


class Inputs:
    """Aligned crops or letterboxed frames, kept as bytes and turned into a network's input slice by slice."""

    def __init__(self, pictures: ByteArray, preprocessing: Preprocessing) -> None:
        self.pictures = pictures
        self._reverse = preprocessing.color == "rgb"
        self._mean = np.array(preprocessing.mean, np.float32)[:, None, None]
        self._factor = (1.0 / np.array(preprocessing.std, np.float64)).astype(np.float32)[:, None, None]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: slice) -> FloatArray:
        """(n, 3, H, W) float32 of a slice."""
        part = self.pictures[index]
        planes = (part[..., ::-1] if self._reverse else part).transpose(0, 3, 1, 2)
        return np.ascontiguousarray((planes.astype(np.float32) - self._mean) * self._factor)

    def part(self, start: int, stop: int) -> Inputs:
        """Some of the pictures alone."""
        other = copy.copy(self)
        other.pictures = self.pictures[start:stop]
        return other

    def digest(self) -> str:
        """SHA-256 of shape and pixels: what the engine was calibrated on."""
        return hashlib.sha256(repr(self.pictures.shape).encode() + self.pictures.tobytes()).hexdigest()


def find_pictures(folder: Path) -> list[Picture]:
    """The pictures of a folder; InputError when there is none."""
    found = find_photos([folder])
    inside = [path.relative_to(folder) for path in found]
    return [
        Picture(path, relative.parts[0] if len(relative.parts) > 1 else relative.name)
        for path, relative in zip(found, inside, strict=True)
    ]


def split_pictures(pictures: Sequence[Picture], *, count: int, most_held_out: int, seed: str = "edgeface") -> Split:
    """Choose calibration pictures person by person, in the order of a hash of seed and name, until there are `count`.

    At most a half of all people go to calibration. The rest is for verification, again in hashed order of people.
    Names and not places are hashed, so the choice is the same on every machine.
    """
    people: dict[str, list[Picture]] = {}
    for picture in pictures:
        people.setdefault(picture.person, []).append(picture)
    order = sorted(people, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    calibration: list[Picture] = []
    used = 0
    while used < len(order) // 2 and len(calibration) < count:
        # A few pictures of a person say what many do; more people say more.
        calibration += people[order[used]][:4]
        used += 1
    held_out = [picture for name in order[used:] for picture in people[name]]
    return Split(calibration[:count], held_out[:most_held_out])


def embedder_inputs(
    recipe: Recipe | Manifest, pictures: Sequence[Picture], detector: Detector | None, *, tick: Tick | None = None
) -> tuple[Inputs, list[Picture], dict[str, str]]:
    """Aligned crops of some pictures, the pictures that gave one, and why the others gave none.

    A picture of exactly the network's size is a crop already; any other is a photograph whose subject is found by the
    detector and aligned to the recipe's template.

    Raises:
        BuildError: there are photographs but no detector.
    """
    assert recipe.input_size is not None  # held by the reader of recipes and manifests
    crops: list[ByteArray] = []
    kept: list[Picture] = []
    dropped: dict[str, str] = {}
    template = np.array(recipe.template, np.float32)
    for picture in pictures:
        if tick is not None:
            tick(1)
        try:
            frame = read_photo(picture.path)
            if frame.shape[:2] == recipe.input_size:
                crops.append(frame)
                kept.append(picture)
                continue
            if detector is None:
                raise BuildError(
                    f"{picture.path}: {frame.shape[1]}x{frame.shape[0]} px is no crop of "
                    f"{recipe.input_size[1]}x{recipe.input_size[0]}, and there is no detector to cut one out"
                )
            faces = detector.detect(frame).subject(*frame.shape[:2])
        except InputError as error:
            dropped[str(picture.path)] = str(error)
            continue
        if not len(faces):
            dropped[str(picture.path)] = "no face found"
            continue
        crops.append(_crop(frame, faces.landmarks, template, recipe.input_size))
        kept.append(picture)
    shape = (len(crops), *recipe.input_size, 3)
    return Inputs(np.stack(crops) if crops else np.empty(shape, np.uint8), recipe.preprocessing), kept, dropped


def _crop(
    frame: ByteArray, landmarks: FloatArray, template: FloatArray, size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    tensor = np.empty((1, 3, *size), np.float32)
    crops = np.empty((1, *size, 3), np.uint8)
    kernels.align(frame, landmarks, template, tensor, crops=crops)
    crop: npt.NDArray[np.uint8] = crops[0]
    return crop


def frame_inputs(
    recipe: Recipe | Manifest, pictures: Sequence[Picture], *, max_side_px: int, tick: Tick | None = None
) -> tuple[Inputs, list[Picture], dict[str, str]]:
    """Frames for a detector, each letterboxed as `Detector` does, on one common canvas.

    Every second one is four frames of half the size: a detector meets small faces, and its fine strides must see some.
    """
    frames: list[ByteArray] = []
    kept: list[Picture] = []
    dropped: dict[str, str] = {}
    for picture in pictures:
        if tick is not None:
            tick(1)
        try:
            frame = read_photo(picture.path)
        except InputError as error:
            dropped[str(picture.path)] = str(error)
            continue
        shrink = min(1.0, max_side_px / max(frame.shape[:2]))
        frames.append(_resized(frame, max(1, round(frame.shape[0] * shrink)), max(1, round(frame.shape[1] * shrink))))
        kept.append(picture)
    if recipe.input_size is not None:
        height, width = recipe.input_size
    else:
        height, width = (max((-(-f.shape[axis] // 32) * 32 for f in frames), default=32) for axis in (0, 1))
    canvas = np.zeros((len(frames), height, width, 3), np.uint8)
    for number, frame in enumerate(frames):
        if number % 2 == 0:
            _place(canvas[number], frame)
            continue
        for quarter in range(4):
            top, left = quarter // 2 * (height // 2), quarter % 2 * (width // 2)
            part = canvas[number, top : top + height // 2, left : left + width // 2]
            _place(part, frames[(number + quarter) % len(frames)])
    return Inputs(canvas, recipe.preprocessing), kept, dropped


def _place(canvas: ByteArray, frame: ByteArray) -> None:
    """Put a frame into the upper left corner, shrunk where it is too large."""
    shrink = min(1.0, canvas.shape[0] / frame.shape[0], canvas.shape[1] / frame.shape[1])
    height, width = max(1, int(frame.shape[0] * shrink)), max(1, int(frame.shape[1] * shrink))
    canvas[:height, :width] = _resized(frame, height, width)


def _resized(frame: ByteArray, height: int, width: int) -> ByteArray:
    if frame.shape[:2] == (height, width):
        return frame
    out = np.empty((3, height, width), np.float32)
    kernels.letterbox(frame, out, resized=(height, width), color="bgr")
    return np.ascontiguousarray(np.rint(out).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))

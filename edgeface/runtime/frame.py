"""A frame on its way through detector and embedder, and what each makes of it: the work that an engine may take over.

An engine that prepares frames itself (`Engine` protocol's `FrameEngine`) gets the work; for every other engine
the work fills a tensor on the CPU, with the same meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from edgeface import kernels
from edgeface.frames import check_frame, check_size, packed

if TYPE_CHECKING:
    from types import TracebackType

    from edgeface.manifest import Preprocessing
    from edgeface.types import ByteArray, FloatArray

Size = tuple[int, int]

GRID = 32  # the coarsest stride of the detectors' heads: a network's sides are multiples of it


class Copy(Protocol):
    """A frame's copy in a GPU's memory."""

    def release(self) -> None:
        """Give the memory back to whoever lent it. No call of CUDA, from any thread."""
        ...


class HeldFrame:
    """A checked frame, with the copy that a GPU may have of it: so it crosses once for detection and alignment.

    Args:
        image: (H, W, 3) uint8 BGR, or another array that `pixel_format` describes, of a picture with sides of 32 to
            8192 px. It must not change while held. Copied where its pixels do not lie together in memory.
        pixel_format: as `edgeface.kernels.letterbox` takes them.

    Raises:
        InputError: not a frame.

    Attributes:
        image, pixel_format: the frame.
        size: height and width of the picture in pixels.
        copy: on a GPU; None until one has prepared from it.
    """

    def __init__(self, image: Any, *, pixel_format: str = "bgr") -> None:
        self.copy: Copy | None = None
        if pixel_format == "bgr":
            image = check_frame(image)  # its messages know what usually went wrong
        # Before a copy is made: an array can claim any size.
        self.size: Size = check_size(kernels.frame_size(image, pixel_format=pixel_format, packed=False))
        self.image: ByteArray = packed(image)
        self.pixel_format = pixel_format

    def release(self) -> None:
        """Give back the copy's memory. Twice is harmless."""
        copy, self.copy = self.copy, None
        if copy is not None:
            copy.release()

    def __enter__(self) -> HeldFrame:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()  # an iteration that was given up left it held


@dataclass(frozen=True)
class Letterbox:
    """A frame resized into a network's input, its upper left corner.

    Attributes:
        frame: of any size.
        resized: height and width of the picture in the input.
        canvas: height and width of the input.
    """

    frame: HeldFrame
    resized: Size
    canvas: Size

    @classmethod
    def fit(cls, frame: HeldFrame, *, room: Size, fixed: bool) -> Letterbox:
        """The largest picture that fits into `room` without enlarging the frame.

        Args:
            frame: to be resized.
            room: most height and width of the network's input.
            fixed: the input is `room`, whatever the frame; otherwise it is as small as multiples of 32 allow.
        """
        height, width = frame.size
        shrink = min(1.0, room[0] / height, room[1] / width)
        resized = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        canvas = room if fixed else (-(-resized[0] // GRID) * GRID, -(-resized[1] // GRID) * GRID)
        return cls(frame, resized, canvas)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return (1, 3, *self.canvas)

    def fill(self, tensor: FloatArray, given: Preprocessing) -> None:
        """Prepare on the CPU, into a tensor of `shape`."""
        kernels.letterbox(
            self.frame.image, tensor[0], resized=self.resized, pixel_format=self.frame.pixel_format, color=given.color,
            mean=given.mean, std=given.std,
        )  # fmt: skip


@dataclass(frozen=True)
class Align:
    """Faces of a frame cut out upright.

    Attributes:
        frame: in which they are.
        landmarks: (N, 5, 2) float32, x and y in pixels of the frame.
        template: (5, 2) float32, where those points belong in the crop.
        crop: height and width of the crops.
    """

    frame: HeldFrame
    landmarks: FloatArray
    template: FloatArray
    crop: Size

    def __len__(self) -> int:
        return len(self.landmarks)

    def __getitem__(self, part: slice) -> Align:
        return replace(self, landmarks=self.landmarks[part])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return (len(self), 3, *self.crop)

    def fill(self, tensor: FloatArray, given: Preprocessing) -> None:
        """Prepare on the CPU, into a tensor of `shape`."""
        kernels.align(
            self.frame.image, self.landmarks, self.template, tensor, pixel_format=self.frame.pixel_format,
            color=given.color, mean=given.mean, std=given.std,
        )  # fmt: skip


Work = Letterbox | Align

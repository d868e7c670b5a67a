"""Photographs from files: found once each, upright, and refused with a reason."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from edgeface import photos
from edgeface.errors import InputError
from edgeface.photos import find_photos, read_photo
from edgeface.tools.demo import demo_photo

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

#: Left half dark, right half bright, 40 high and 60 wide: tells every turn from every other.
PICTURE: npt.NDArray[np.uint8] = np.zeros((40, 60, 3), np.uint8)
PICTURE[:20, 30:] = (250, 250, 250)
PICTURE[20:, 30:] = (120, 120, 120)


def written(path: Path, picture: npt.NDArray[Any] = PICTURE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)
    return path


def test_places_are_searched_in_order_and_each_file_comes_once(tmp_path: Path) -> None:
    one = written(tmp_path / "folder/b.jpg")
    two = written(tmp_path / "folder/deeper/a.PNG")
    (tmp_path / "folder/notes.txt").write_text("no picture")
    three = written(tmp_path / "with space é.webp")
    assert find_photos([tmp_path / "folder"]) == [one, two]
    assert find_photos([three, one, str(tmp_path / "folder"), str(tmp_path / "*.webp")]) == [three, one, two]
    assert find_photos([str(tmp_path / "**/*.jpg")]) == [one]
    assert find_photos([]) == []


def test_a_name_with_pattern_characters_is_first_a_name(tmp_path: Path) -> None:
    path = written(tmp_path / "ada[1].jpg")
    assert find_photos([path]) == [path]


@pytest.mark.parametrize("place", ["nothing.jpg", "*.jpg", "empty", "a" * 300])
def test_a_place_without_a_photograph_is_an_error(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match=r"no photograph in this folder|no such file, folder or pattern|File name too long"
    ):
        find_photos([place])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp", ".jpg"])
def test_pictures_come_as_bgr(suffix: str, tmp_path: Path) -> None:
    blue: npt.NDArray[np.uint8] = np.full((40, 60, 3), (250, 40, 10), np.uint8)
    read = read_photo(written(tmp_path / f"blue{suffix}", blue))
    assert read.shape == (40, 60, 3)
    assert read.dtype == np.uint8
    assert np.abs(read.astype(int) - blue).max() <= 12  # JPEG and WebP lose a little


@pytest.mark.parametrize("picture", [PICTURE[:, :, 0], np.dstack([PICTURE, PICTURE[:, :, 0]]),
                                     PICTURE.astype(np.uint16) * 257])  # fmt: skip
def test_grey_transparent_and_deep_pictures_become_bgr(picture: npt.NDArray[Any], tmp_path: Path) -> None:
    assert np.array_equal(read_photo(written(tmp_path / "picture.png", picture)), PICTURE)


def exif(orientation: int) -> bytes:
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHH", 1, 0x0112, 3, 1, orientation, 0) + bytes(4)
    body = b"Exif\0\0" + tiff
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, PICTURE), (3, PICTURE[::-1, ::-1]), (6, np.rot90(PICTURE, -1)), (8, np.rot90(PICTURE))],
)
def test_a_phones_orientation_is_obeyed(orientation: int, upright: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    path = written(tmp_path / "phone.jpg")
    jpeg = path.read_bytes()
    path.write_bytes(jpeg[:2] + exif(orientation) + jpeg[2:])
    read = read_photo(path)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).mean() < 6


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"no picture at all", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + bytes(40), b"BM" + bytes(60)],
)
def test_what_is_no_picture_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.jpg: .*(not a picture|cannot decode)"):
        read_photo(path)


@pytest.mark.parametrize("length", [100, 2_000])
def test_a_cut_photograph_is_refused_or_read_whole(length: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(demo_photo("barack_obama_2005.jpg").read_bytes()[:length])
    try:
        assert read_photo(path).ndim == 3
    except InputError as error:
        assert "cut.jpg" in str(error)  # noqa: PT017 - decoders differ in what they make of a part


def test_a_picture_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    # 65,500 x 65,500 pixels in 60 bytes of BMP: OpenCV's own limit raises.
    header = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 65_500, 65_500, 1, 24, 0, 0, 0, 0, 0, 0)
    path = tmp_path / "huge.bmp"
    path.write_bytes(header + bytes(8))
    with pytest.raises(InputError, match=r"huge\.bmp: .*too many pixels, shrink it first"):
        read_photo(path)


def test_the_command_line_unpacks_no_picture_that_is_larger_than_a_frame(
    tmp_path: Path, with_models: Path, edgeface: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENCV_IO_MAX_IMAGE_PIXELS", raising=False)
    # 100 million pixels: below OpenCV's own limit, above 8192 x 8192.
    header = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 10_000, 10_000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "large.bmp").write_bytes(header + bytes(8))
    ran = edgeface("detect", tmp_path / "large.bmp")
    assert ran.code == 1
    assert "too many pixels" in ran.err


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"absent\.jpg: not a file"):
        read_photo(tmp_path / "absent.jpg")
    with pytest.raises(InputError, match="not a file"):
        read_photo(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    with pytest.raises(InputError, match="not a file"):
        read_photo(tmp_path / "pipe.jpg")
    monkeypatch.setattr(photos, "MAX_FILE_BYTES", 10)
    with pytest.raises(InputError, match=r"expected a photograph of at most 10 bytes, got \d+"):
        read_photo(written(tmp_path / "large.jpg"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = written(tmp_path / "secret.jpg")
    path.chmod(0)
    with pytest.raises(InputError, match="cannot read: Permission denied"):
        read_photo(path)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    written(tmp_path / "cafe.png").rename(path)
    assert find_photos([tmp_path]) == [path]
    assert np.array_equal(read_photo(path), PICTURE)

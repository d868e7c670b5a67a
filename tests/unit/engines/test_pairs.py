"""Pairs files in LFW's format, and the protocol's figures on made-up embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeface.engines import pairs as protocol
from edgeface.errors import InputError

GOOD = (
    "2\t2\n"
    "Ada\t1\t2\nBob\t3\t1\nAda\t1\tBob\t1\nBob\t2\tEve\t1\n"
    "Eve\t1\t2\nMary Ann\t1\t10\nEve\t2\tAda\t3\nBob\t1\tMary Ann\t1\n"
)


def read(text: str | bytes, folder: Path) -> protocol.Pairs:
    path = folder / "pairs.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return protocol.read_pairs(path)


@pytest.mark.parametrize("text", [GOOD, GOOD.replace("\n", "\r\n"), GOOD + "\n\n", GOOD.rstrip("\n")])
def test_lfws_format(text: str, tmp_path: Path) -> None:
    listed = read(text, tmp_path)
    assert listed.pairs[0] == (("Ada", 1), ("Ada", 2))
    assert listed.pairs[2] == (("Ada", 1), ("Bob", 1))
    assert listed.pairs[5] == (("Mary Ann", 1), ("Mary Ann", 10))
    assert listed.same.tolist() == [True, True, False, False] * 2
    assert listed.folds.tolist() == [0] * 4 + [1] * 4
    assert listed.photos == sorted(set(listed.photos))
    assert len(listed.photos) == 10


def test_one_number_in_the_first_line_is_one_fold(tmp_path: Path) -> None:
    listed = read("1\nAda\t1\t2\nAda\t1\tBob\t1\n", tmp_path)
    assert listed.folds.tolist() == [0, 0]
    assert listed.same.tolist() == [True, False]


def test_where_lfw_keeps_photographs() -> None:
    assert protocol.photo_path(Path("/lfw"), ("Mary Ann", 10)) == Path("/lfw/Mary Ann/Mary Ann_0010.jpg")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: expected the numbers of folds"),
        ("\n", "line 1"),
        ("two\t2\n", "line 1"),
        ("0\t2\n", "line 1"),
        ("2\t2\t2\n", "line 1"),
        ("-1\n", "line 1"),
        ("٣\n", "line 1"),
        ("9999999\n", "line 1"),
        (GOOD.replace("2\t2\n", "2\t3\n", 1), "line 1 says 2 x 2 x 3 pairs, the file has 8"),
        (GOOD.replace("Ada\t1\t2\n", "Ada\t1\n"), "line 2: expected name i j, got"),
        (GOOD.replace("Ada\t1\t2\n", "Ada 1 2\n"), "line 2: expected name i j"),
        (GOOD.replace("Ada\t1\tBob\t1\n", "Ada\t1\t2\n"), "line 4: expected name1 i name2 j"),
        (GOOD.replace("Ada\t1\t2\n", "Ada\tone\t2\n"), "line 2: expected a name and a number"),
        (GOOD.replace("Ada\t1\t2\n", "Ada\t-1\t2\n"), "line 2"),
        (GOOD.replace("Ada\t1\t2\n", "Ada\t1\t" + "9" * 5000 + "\n"), "line 2"),
        (GOOD.replace("Ada\t1\t2\n", "../Ada\t1\t2\n"), "line 2"),
        (GOOD.replace("Ada\t1\t2\n", "..\t1\t2\n"), "line 2"),
        (GOOD.replace("Ada\t1\t2\n", "\t1\t2\n"), "line 2"),
        (GOOD.replace("Ada\t1\tBob\t1\n", "Ada\t1\tAda\t2\n"), "line 4: expected two people"),
        (GOOD.replace("Ada\t1\t2\n", "Ada\t2\t2\n"), "line 2: expected two photographs"),
        (b"1\nJos\xe9\t1\t2\nAda\t1\tBob\t1\n", "cannot read the pairs file"),
    ],
)  # fmt: skip
def test_a_line_that_does_not_fit_is_named(text: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read(text, tmp_path)


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the pairs file"):
        protocol.read_pairs(tmp_path / "pairs.txt")


def scored(listed: protocol.Pairs, *, blank: tuple[str, int] | None = None) -> dict[str, object]:
    """Everybody's photographs point in a direction of their own."""
    names = sorted({name for name, _ in listed.photos})
    rows = np.zeros((len(listed.photos), len(names)), np.float32)
    for index, photo in enumerate(listed.photos):
        if photo != blank:
            rows[index, names.index(photo[0])] = 1
    return protocol.score(listed, listed.photos, rows)


def test_a_perfect_embedder_scores_perfectly(tmp_path: Path) -> None:
    result = scored(read(GOOD, tmp_path))
    assert result["accuracy_mean"] == 100
    assert result["accuracy_std"] == 0
    assert result["rank1"] == 1
    assert result["genuine_pairs"] == 3 + 3 + 1 + 1
    assert result["impostor_pairs"] == 45 - 8
    for table in ("pairs_tar", "all_pairs_tar"):
        points = result[table]
        assert isinstance(points, dict)
        assert list(points) == ["1e-2", "1e-3", "1e-4", "1e-5", "1e-6"]
        assert all(point["tar"] == 1 and 0 < point["similarity"] < 1e-6 for point in points.values())
        assert not any(point["supported"] for point in points.values())  # a handful of pairs supports no rate


def test_a_photograph_without_a_face_matches_nobody(tmp_path: Path) -> None:
    result = scored(read(GOOD, tmp_path), blank=("Ada", 1))
    assert isinstance(result["accuracy_mean"], float)
    assert result["accuracy_mean"] == 87.5  # one genuine pair of eight is lost, the impostor pair is not
    assert result["rank1"] == pytest.approx(9 / 10)
    assert isinstance(result["all_pairs_tar"], dict)
    assert result["all_pairs_tar"]["1e-2"]["tar"] == pytest.approx(6 / 8)

"""The table of `edgeface bench quantisation`: what was measured, what was refused, and what is lacking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeface.tools.bench.quantisation import Row, show

if TYPE_CHECKING:
    import pytest


def loss(far: float, *, supported: bool = True) -> dict[str, Any]:
    return {"far": far, "loss": 0.0123, "error": 0.0045, "shift": 0.0067, "supported": supported}


FIGURES = {
    "cosine_mean": 0.99812, "cosine_p1": 0.99634, "cosine_min": 0.9871,
    "losses": [loss(1e-3), loss(1e-4), loss(1e-5, supported=False)],
}  # fmt: skip


def test_embedders_and_detectors_have_tables_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        Row("sface", "embedder", "ours", seconds=61.2, size_ratio=0.252, int8_share=1.0, parsed="", figures=FIGURES),
        Row("sface", "embedder", "theirs", size_ratio=0.5, int8_share=0.9, objections=["INT32 bias (28)"],
            parsed="Conv_0: Invalid Node", figures={**FIGURES, "losses": []}),
        Row("sface", "embedder", "nvidia-modelopt", failed="it is not there"),
        Row("yunet", "detector", "ours", int8_share=0.97, figures={
            "faces": 400, "recall": 0.9975, "extra": 3, "points_share_1": 0.88, "points_share_3": 0.96}),
    ]  # fmt: skip
    show("INT8", {"cores": 2, "faiss-cpu": None}, rows)
    out = capsys.readouterr().out
    ours = next(line for line in out.splitlines() if "0.9981" in line)
    for words in ("0.9963", "0.9871", "0.0123 (0.0045)", "(n)", "0.0067", "0.252", "100.0%", "kept; parser accepts"):
        assert words in ours
    theirs = next(line for line in out.splitlines() if "theirs" in line)
    assert "INT32 bias (28); parser refuses" in theirs
    assert theirs.count("(n)") == 4, "without pairs there is no loss and no shift"
    assert "nvidia-modelopt: no figures: it is not there" in out
    assert "3 of 400" in out
    assert "faiss" not in out
    assert rows[2].summary == "sface, nvidia-modelopt: it is not there"
    assert rows[0].summary == "sface, ours: 61.2 s"
    assert rows[0].as_dict()["int8_share"] == 1.0

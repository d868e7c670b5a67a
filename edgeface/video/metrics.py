"""The loop's figures, and their text for Prometheus."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeface.video.loop import RecognitionLoop


@dataclass
class LoopCounts:
    """Totals since the loop began."""

    frames: int = 0
    detections: int = 0
    faces: int = 0
    embeddings: int = 0
    liveness_looks: int = 0
    events: int = 0
    callback_failures: int = 0
    stages_ms: dict[str, float] = field(default_factory=dict)


def prometheus_text(loop: RecognitionLoop) -> str:
    """The text of a scrape: counters since the loop began, and latencies of the last frames.

    Source: the text exposition format, version 0.0.4.
    """
    counts, budget = loop.counts, loop.budget
    lines = []
    counters = (
        ("frames", "Frames processed.", counts.frames),
        ("frames_over_budget", "Frames whose latency exceeded the budget.", budget.frames_over),
        ("detections", "Frames in which the detector ran.", counts.detections),
        ("faces", "Faces detected.", counts.faces),
        ("embeddings", "Faces embedded.", counts.embeddings),
        ("liveness_looks", "Faces looked at by the liveness model.", counts.liveness_looks),
        ("events", "Events told.", counts.events),
        ("callback_failures", "Callbacks that raised.", counts.callback_failures),
    )
    for name, text, value in counters:
        lines += [f"# HELP edgeface_{name}_total {text}", f"# TYPE edgeface_{name}_total counter"]
        lines.append(f"edgeface_{name}_total {value}")
    lines += ["# HELP edgeface_stage_seconds_total Time in each stage.", "# TYPE edgeface_stage_seconds_total counter"]
    for stage, ms in counts.stages_ms.items():
        lines.append(f'edgeface_stage_seconds_total{{stage="{stage}"}} {ms / 1e3:.6f}')
    lines += ["# HELP edgeface_latency_seconds Latency of the last frames.", "# TYPE edgeface_latency_seconds summary"]
    for rank, latency in zip((50, 99), budget.percentiles_ms(50, 99), strict=True):
        seconds = "NaN" if math.isnan(latency) else f"{latency / 1e3:.6f}"
        lines.append(f'edgeface_latency_seconds{{quantile="{rank / 100:g}"}} {seconds}')
    lines += ["# HELP edgeface_budget_level Steps taken to save time, 0 is none.", "# TYPE edgeface_budget_level gauge"]
    lines.append(f"edgeface_budget_level {budget.level}")
    return "\n".join(lines) + "\n"

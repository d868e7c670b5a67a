"""The build report as one HTML page, made from the same document that is written as JSON."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from edgeface.engines.limits import verdict
from edgeface.engines.plots import bars, histogram_lines, lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1320px;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.6em 0 1.6em}td,th{border-bottom:1px solid #ddd;padding:.2em .7em;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#b00020;font-weight:600}.good{color:#216e39}
svg{margin:.4em;border:1px solid #eee}svg text{font:11px system-ui,sans-serif;fill:#444}svg text.t{font-weight:600}"""


def page(document: Mapping[str, Any]) -> str:
    """The whole page; `document` is what `store.plain` gave."""
    verdict = "passed: the engine was written" if document["passed"] else "FAILED: no engine was written"
    title = f"{document['recipe']} for {document['target']}, {document['precision']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="{"good" if document["passed"] else "bad"}">{verdict}</p>',
        _findings(document["findings"]),
        _plan(document),
        _plans(document),
        _figures(document["figures"], document["measured"]),
        _plots(document),
        _layers(document["layers"]),
        _facts("Pictures", document["pictures"]),
        _facts("Versions", document["versions"]),
        _facts("Seconds", document.get("seconds", {})),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return f'<td class="{"good" if value else "bad"}">{"holds" if value else "FAILS"}</td>'
    if isinstance(value, (int, float)):
        text = str(value) if isinstance(value, int) else f"{value:.5g}"
        return f'<td class="n">{text}</td>'
    return f"<td>{html.escape('-' if value is None else str(value))}</td>"


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (f["name"], f["value"], f["limit"], verdict(f) if f.get("above") else f["passed"], f["note"]) for f in findings
    ]
    return "<h2>Limits of the recipe</h2>" + _table(("limit", "measured", "allowed", "", "note"), rows)


def _plan(document: Mapping[str, Any]) -> str:
    names = ", ".join(document["float_layers"]) or "none"
    rows = [
        (
            a["precision"],
            len(a["float_layers"]),
            a["passed"],
            "; ".join(f["name"] for f in a["findings"] if not f["passed"]),
        )
        for a in document["attempts"]
    ]
    tried = [(c["strength"], c["policy"], c["error"]) for c in document["candidates"]]
    return (
        f"<h2>Plan of precisions</h2><p>{document['int8_share']:.2%} of the multiply-accumulates in INT8. "
        f"Layers left in float: {html.escape(names)}.</p>"
        + _table(("tried", "float layers", "gate", "what failed"), rows)
        + ("<h3>Candidates, error on calibration pictures</h3>" if tried else "")
        + _table(("equalisation strength", "range policy", "error of the output"), tried)
    )


def _plans(document: Mapping[str, Any]) -> str:
    """Plans that were compiled, as they run on the machine that compiled them."""
    rows = []
    for one in document["plans"]:
        times = [
            f"batch {t['shape'][0]}: {t['median_ms']:.3f} ms ({t['low_ms']:.3f} to {t['high_ms']:.3f})"
            for t in one["times"]
        ]
        told = "; ".join(times)
        rows.append((one["precision"], one["float_layers"], one["bytes"], one["passed"], told, one["refused"]))
    if not rows:
        return ""
    head = ("plan", "float layers", "bytes", "gate", "median of the runs (quartiles)", "why it is out")
    off = "".join(f"<li>{html.escape(text)}</li>" for text in document.get("off_plan", []))
    return (
        f"<h2>Plans on this machine</h2><p>{html.escape(document['reason'])}</p>{_table(head, rows)}"
        + (f'<h3>Layers off the plan of precisions</h3><ul class="bad">{off}</ul>' if off else "")
        + _facts("Compiled by and for", document.get("compiled", {}))
    )


def _figures(figures: Mapping[str, Any], measured: str) -> str:
    plain = [(name, value) for name, value in figures.items() if isinstance(value, (int, float, str))]
    title = f"Against float32, on people that were not calibrated on ({measured})"
    text = f"<h2>{html.escape(title)}</h2>" + _table(("figure", "value"), plain)
    columns = ("far", "reference_tar", "tar", "loss", "error", "cross_loss", "cross_error", "shift", "supported")
    for title, key in (("TAR", "losses"), ("TAR with 128-byte templates", "template_losses")):
        rows = [[str(row[c]) if c == "supported" else row[c] for c in columns] for row in figures.get(key, [])]
        text += f"<h3>{title}</h3>{_table(columns, rows)}" if rows else ""
    return text


def _plots(document: Mapping[str, Any]) -> str:
    figures = document["figures"]
    histograms = {name: histogram_lines(item) for name, item in figures.get("histograms", {}).items()}
    cosine = {"cosine": histograms.pop("cosine to float32")} if "cosine to float32" in histograms else {}
    layers = document["layers"]
    errors = [(row["layer"], row["error_db"]) for row in layers if row.get("error_db") is not None]
    spreads = {
        name: [(float(i), row[key]) for i, row in enumerate(layers, 1) if row.get(key)]
        for name, key in (("before equalisation", "spread_before"), ("after", "spread_after"))
    }
    ranges = {
        name: [(float(i), row[key]) for i, row in enumerate(layers, 1) if row.get(key)]
        for name, key in (("largest value before", "range_before"), ("range chosen", "range_after"))
    }
    plots = [
        lines("Cosine of each embedding to float32", cosine, x="cosine", y="share"),
        lines("Similarities of pairs", histograms, x="similarity", y="share"),
        lines(
            "Detection error trade-off",
            figures.get("det", {}),
            x="false accept rate",
            y="false reject rate",
            log_x=True,
            log_y=True,
        ),
        bars("Signal to error of each layer's output", errors, y="dB"),
        lines("Ranges of the layers' inputs", ranges, x="layer", y="magnitude", log_y=True),
        lines("Largest channel over the median one", spreads, x="layer", y="ratio", log_y=True),
    ]
    return "".join(plots)


def _layers(layers: Sequence[Mapping[str, Any]]) -> str:
    columns = (
        "layer",
        "operator",
        "macs",
        "precision",
        "error_db",
        "range_before",
        "range_after",
        "spread_before",
        "spread_after",
    )
    return "<h2>Layers</h2>" + _table(columns, [[row.get(c) for c in columns] for row in layers])


def _facts(title: str, facts: Mapping[str, Any]) -> str:
    return f"<h2>{title}</h2>{_table(('', ''), list(facts.items()))}" if facts else ""

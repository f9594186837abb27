"""One self-contained HTML page from the report's tables: it asks for nothing from elsewhere, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from jobs.report_page.batch_times import batch_times
from jobs.report_page.calibration import calibration
from jobs.report_page.classes import classes
from jobs.report_page.colours import variables
from jobs.report_page.confused import confused
from jobs.report_page.failures import errors, faults
from jobs.report_page.headline import cards, notices
from jobs.report_page.markup import section, table, text
from jobs.report_page.plots import drawing
from jobs.report_page.throughput import throughput
from jobs.report_page.time_spent import time_spent
from jobs.report_tables import Summary

LISTED_DEVICES = 15

STYLE = variables() + Path(__file__).with_name("page.css").read_text()
SCRIPT = Path(__file__).with_name("page.js").read_text()
_ITS_OWN = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{_ITS_OWN}'"


def page(summary: Summary, tables: dict[str, pa.Table], thumbnails: Mapping[str, bytes]) -> str:
    """The page with its plots; equal arguments give an equal page. All text in it is escaped.

    thumbnails: JPEGs by image_id, of examples in the confusion table.
    """
    title = f"{summary.model or 'Predictions'} on {summary.data or summary.run_id}"
    facts = [summary.job, f"run {summary.run_id}", _started(tables["throughput"]), "; ".join(summary.devices[:8])]
    with drawing():
        sections = [
            notices(summary),
            cards(summary),
            throughput(tables["throughput"], tables["faults"]),
            time_spent(tables["meshes"]),
            classes(summary, tables["per_class"]),
            confused(tables["confusion"], thumbnails) if summary.labelled else "",
            calibration(summary, tables["calibration"]),
            batch_times(summary, tables["batch_times"]),
            errors(summary, tables["errors"]),
            faults(summary, tables["faults"]),
            _config(summary),
        ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{text(title)}</h1>",
            f'<p class="quiet">{text(" · ".join(fact for fact in facts if fact))}</p>',
            *filter(None, sections),
            f"</main><script>{SCRIPT}</script></body></html>\n",
        ]
    )


def _config(summary: Summary) -> str:
    facts = [("data", summary.data), ("model", summary.model), ("model digest (SHA-256)", summary.model_digest)]
    facts += [("runs on", device) for device in summary.devices[:LISTED_DEVICES]]
    for name, value in json.loads(summary.config).items():
        facts.append((name, value if isinstance(value, str) or value is None else json.dumps(value)))
    facts += [(f"{name} version", version) for name, version in json.loads(summary.versions).items()]
    rows = [(name, "not set" if value is None else value) for name, value in facts]
    return section("Configuration and versions", "", table(["Name", "Value"], rows))


def _started(table: pa.Table) -> str:
    if not len(table):
        return ""
    first = pc.min(table["window_start"]).as_py()
    return f"{first:%Y-%m-%d %H:%M} UTC"

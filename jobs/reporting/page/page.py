"""The page of a run, from the report's tables: what to know first, then one section a question."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from jobs.reporting.page.batch_times import batch_times
from jobs.reporting.page.calibration import calibration
from jobs.reporting.page.classes import classes
from jobs.reporting.page.confused import confused
from jobs.reporting.page.document import document
from jobs.reporting.page.failures import errors, faults
from jobs.reporting.page.headline import headline, notices
from jobs.reporting.page.job_time import job_time
from jobs.reporting.page.markup import section, table
from jobs.reporting.page.plots import drawing
from jobs.reporting.page.throughput import throughput
from jobs.reporting.page.time_spent import time_spent
from jobs.reporting.schema import Summary

LISTED_DEVICES = 15


def draw(summary: Summary, tables: dict[str, pa.Table], thumbnails: Mapping[str, bytes]) -> list[str]:
    """The sections with plots and pictures, which take most of a report's time.

    thumbnails: JPEGs by image_id, of examples in the confusion table.
    """
    with drawing():
        return [
            throughput(tables["throughput"], tables["faults"]),
            time_spent(tables["meshes"]),
            classes(summary, tables["per_class"]),
            confused(tables["confusion"], thumbnails) if summary.labelled else "",
            calibration(summary, tables["calibration"]),
            batch_times(summary, tables["batch_times"]),
        ]


def page(summary: Summary, tables: dict[str, pa.Table], drawn: list[str]) -> str:
    """The page around what was drawn; equal arguments give an equal page. All text in it is escaped."""
    title = f"{summary.model or 'Predictions'} on {summary.data or summary.run_id}"
    facts = [summary.job, f"run {summary.run_id}", _started(tables["throughput"]), "; ".join(summary.devices[:8])]
    sections = [notices(summary), headline(summary), *drawn[:2], job_time(summary), *drawn[2:]]
    sections += [errors(summary, tables["errors"]), faults(summary, tables["faults"]), _config(summary)]
    return document(title, title, [" · ".join(fact for fact in facts if fact)], sections)


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

"""Images that could not be classified, and the faults that the run recovered from."""

from __future__ import annotations

import pyarrow as pa

from jobs.reporting.page.markup import section, table
from jobs.reporting.schema import Summary

LISTED = 15  # rows of either; the Parquet files have more


def errors(summary: Summary, reasons: pa.Table) -> str:
    if not summary.errors:
        return section("Errors", "Every image was classified.")
    rows = [(row["reason"] or "(various)", f"{row['images']:,}", row["example"]) for row in reasons.slice(0, LISTED).to_pylist()]
    note = f"{summary.errors:,} images could not be classified; a labelled one counts as wrong. N stands for a number."
    return section("Errors", note, table(["Reason", "#Images", "Such as"], rows))


def faults(summary: Summary, met: pa.Table) -> str:
    if not len(met):
        return ""
    rows = [
        (row["attempt"], f"{row['at']:%H:%M:%S}" if row["at"] else "", row["kind"], row["where"], row["what"])
        for row in met.slice(0, LISTED).to_pylist()
    ]
    caption = f"The first {LISTED} of {len(met):,}" if len(met) > LISTED else ""
    note = f"The run recovered from these; every image has exactly one row. {summary.faults}."
    return section("Faults", note, table(["#Attempt", "#At (UTC)", "Kind", "Where", "What"], rows, caption))

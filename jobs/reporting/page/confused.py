"""The most confused pairs of classes, each with the image whose wrong answer was the surest."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from jobs.reporting.page.markup import Markup, section, table, text

LISTED = 15  # pairs; confusion.parquet has all


def confused(confusion: pa.Table, thumbnails: Mapping[str, bytes]) -> str:
    """thumbnails: JPEGs by image_id, of those examples that could be read."""
    wrong = confusion.filter(pc.not_equal(confusion["label"], confusion["prediction"]))
    total = pc.sum(wrong["count"]).as_py() or 0
    if not total:
        return section("Most confused pairs", "No classified image got a wrong class.")
    rows = []
    for row in wrong.slice(0, LISTED).to_pylist():
        facts = row["label_name"], row["prediction_name"], f"{row['count']:,}", f"{row['count'] / total:.1%}"
        rows.append((*facts, _example(row, thumbnails), f"{row['example_probability']:.1%}"))
    note = (
        f"{total:,} images got a wrong class, in {len(wrong):,} pairs of label and prediction. The example of a pair is the "
        "image whose wrong answer was the surest: mislabelled ones come first there."
    )
    header = ["Label", "Predicted", "#Images", "#Share of the wrong", "Example", "#Its probability"]
    return section("Most confused pairs", note, table(header, rows))


def _example(row: dict, thumbnails: Mapping[str, bytes]) -> Markup:
    name = text(row["example"])
    if row["example"] not in thumbnails:
        return Markup(name)
    shown = text(f"{row['label_name']}, taken for {row['prediction_name']}")
    data = base64.b64encode(thumbnails[row["example"]]).decode()
    picture = f'<img class="thumbnail" width="96" height="96" alt="{shown}" src="data:image/jpeg;base64,{data}">'
    return Markup(f'{picture}<span class="quiet">{name}</span>')

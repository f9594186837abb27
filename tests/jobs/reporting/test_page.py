"""The page: complete, labelled, safe, and readable in both colour schemes."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.pipeline.sources import open_source
from jobs.reporting.schema import Summary
from jobs.reporting.write import write_reports
from tests.jobs.prediction_files import START, metadata, row, write_file, write_manifest
from tests.jobs.reporting.conftest import a_run, drawings, page, read


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ("simulated T3000", "SIMULATED"),
        ("simulated by ttnn's mock, answers are noise: T3000, mesh 1x8", "MOCKED"),
        ("simulated by ttsim, answers are real and times are not: n150, mesh 1x1", "SIMULATED BY TTSIM"),
        ("cpu, float32", None),
    ],
)
def test_the_page_says_what_was_not_real(tmp_path: Path, description: str, told: str | None) -> None:
    a_run(tmp_path, files=2, description=description)
    assert write_reports(str(tmp_path)).simulated == (told is not None)
    notices = re.findall(r'<div class="notice simulated"><b>([^<]*)</b>', page(tmp_path))
    assert notices == ([told] if told else [])


@pytest.mark.parametrize(("classes", "meshes", "files"), [(10, 3, 6), (1000, 70, 140)])
def test_the_page_is_complete_and_needs_nothing_from_elsewhere(tmp_path: Path, classes: int, meshes: int, files: int) -> None:
    a_run(tmp_path, classes, meshes, files)
    write_manifest(tmp_path, class_names=[f"kind {i}" for i in range(classes)], settings={"device": "auto", "limit": None})
    write_reports(str(tmp_path))
    html = page(tmp_path)
    for section in (
        "Throughput",
        "Where the time went",
        "Accuracy by class",
        "Most confused pairs",
        "Calibration",
        "Batch times",
        "Errors",
        "Configuration and versions",
    ):
        assert f"<h2>{section}</h2>" in html
    for name, value in (("runs on", "cpu, float32"), ("device", "auto"), ("limit", "not set"), ("torch version", "2.13.0")):
        assert f"<td>{name}</td><td>{value}</td>" in html
    assert len(drawings(html)) == 5
    assert all(len(svg.attrib["aria-label"]) > 20 for svg in drawings(html))
    assert not re.search(r"<(link|iframe|object)|https?://|url\((?!#)|src=\"(?!data:image)", html)
    assert len(html) < 1_000_000


def test_the_page_runs_no_script_but_the_one_its_policy_names(steady: tuple[Path, Summary]) -> None:
    html = page(steady[0])
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r" on\w+=", html.replace(script, ""))


def test_every_class_is_in_a_table_to_sort_and_search(tmp_path: Path) -> None:
    a_run(tmp_path, classes=300, meshes=1, files=20)
    write_manifest(tmp_path, class_names=[f"kind {i}" for i in range(300)])
    write_reports(str(tmp_path))
    (table,) = re.findall(r'<table class="sortable">.*?</table>', page(tmp_path), re.DOTALL)
    rows = [[cell.text or "" for cell in found] for found in ElementTree.fromstring(table).iterfind("tbody/tr")]
    expected = {r["class"]: r for r in read(tmp_path, "per_class") if r["images"]}
    assert {int(found[0]) for found in rows} == set(expected)
    for found in rows:
        about = expected[int(found[0])]
        assert found[1:3] == [about["name"], f"{about['accuracy']:.1%}"]
        assert found[5] == f"{about['images']:,}"
    assert [float(found[2].rstrip("%")) for found in rows] == sorted(float(found[2].rstrip("%")) for found in rows)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours #rrggbb, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_and_drawings_stand_out_in_both_schemes(steady: tuple[Path, Summary]) -> None:
    schemes = [dict(re.findall(r"--([\w-]+):(#\w{6})", each)) for each in re.findall(r":root\{(.*?)\}", page(steady[0]))]
    assert len(schemes) == 2
    texts = [("ink", "card"), ("ink", "page"), ("quiet", "card"), ("quiet", "page"), ("warm", "card")]
    texts += [("notice-ink", "notice"), ("alarm-ink", "alarm")]
    for colours in schemes:
        for text, behind in texts:
            assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
        for drawn in ("accent", "warm", "green", "purple", "gold", "cyan", "red", "slate", "axis"):
            assert contrast(colours[drawn], colours["card"]) >= 3, drawn


def test_drawings_take_their_colours_from_the_page_and_their_parts_have_names_of_their_own(steady: tuple[Path, Summary]) -> None:
    html = page(steady[0])
    styles = [each.get("style", "") for svg in drawings(html) for each in svg.iter()]
    assert not [style for style in styles if re.search("#[0-9a-f]{6}", style)]
    assert set(re.findall(r"var\(--([\w-]+)\)", html)) <= set(re.findall(r"--([\w-]+):", html))
    names = re.findall(r' id="([^"]+)"', html)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:href="#|url\(#)([\w-]+)', html)) == set(names)


def test_less_than_an_image_a_second_is_a_fraction_and_no_prefix(tmp_path: Path) -> None:
    rows = [row(0, 0, batch=b, at=10 * b, seconds=10.0) for b in range(4) for _ in range(8)]
    write_file(tmp_path, "chunk.parquet", rows, metadata("host-a/0-3"))
    write_reports(str(tmp_path))
    ticks = [each.text for each in drawings(page(tmp_path))[0].iter() if each.tag == "text"]
    assert "0.8" in ticks
    assert not [tick for tick in ticks if tick and re.fullmatch(r"[0-9.]+m", tick)]


def test_faults_are_marked_where_they_were_noticed(tmp_path: Path) -> None:
    for mesh in ("host-a/0-3", "host-b/0-3"):
        rows = [row(0, 0, batch=b, at=b, seconds=1.0) for b in range(20) for _ in range(4)]
        write_file(tmp_path, f"{mesh[:6]}.parquet", rows, metadata(mesh))
    ended = {"attempt": 1, "started_at": START.isoformat(), "ended_at": START.isoformat(), "state": "finished"}
    at = START.timestamp() + 5
    events = [{"at": at + i, "kind": "retry", "where": "decode", "what": "again"} for i in range(3)]
    events.append({"at": at, "kind": "restart", "where": "host-b/0-3", "what": "the actor was replaced"})
    write_manifest(tmp_path, attempts=[{**ended, "events": events, "lost_hosts": ["host-c"], "restarts": 1}])
    write_reports(str(tmp_path))
    svg = drawings(page(tmp_path))[0]
    assert {"retry: 3", "restart: 1"} <= {each.text for each in svg.iter() if each.tag == "text"}
    assert svg.attrib["aria-label"].endswith("5 faults, 4 of them marked")
    assert "1 without a time are not marked" in page(tmp_path)


@pytest.mark.parametrize("layout", ["class folders", "parquet"])
def test_confused_pairs_have_a_picture_where_the_images_can_be_read(tmp_path: Path, layout: str) -> None:
    data, encoded = tmp_path / "data", []
    for colour in ("red", "lime", "blue"):
        file = io.BytesIO()
        Image.new("RGB", (300, 200), colour).save(file, "PNG")
        encoded.append(file.getvalue())
    data.mkdir()
    if layout == "parquet":
        pq.write_table(pa.table({"image": [{"bytes": each, "path": None} for each in encoded]}), data / "a.parquet")
    else:
        for label, each in enumerate(encoded):
            (data / f"class {label}").mkdir()
            (data / f"class {label}" / "it.png").write_bytes(each)
    source = open_source(str(data), checkpoint_classes=[], labels="none")
    (shard,) = source.shards()
    ids = [image.image_id for _, image in source.read(shard, lambda _: True)]
    rows = [row(0, 0, image_id=ids[0]), row(1, 2, image_id=ids[1]), row(2, 1, image_id="was another then")]
    write_file(tmp_path, "a.parquet", rows, metadata(chunk=f"{shard.id}.00000"))
    write_manifest(tmp_path, data=str(data))

    write_reports(str(tmp_path))

    html = page(tmp_path)
    ((alternative, picture),) = re.findall(
        r'<img class="thumbnail"[^>]* alt="([^"]*)"\s+src="data:image/jpeg;base64,([\w+/=]+)"', html
    )
    assert alternative == "class 1, taken for class 2"
    with Image.open(io.BytesIO(base64.b64decode(picture))) as shown:
        assert shown.size == (96, 96)
        assert np.allclose(np.asarray(shown), (0, 255, 0), atol=4)
    write_reports(str(tmp_path))
    assert page(tmp_path) == html

    shutil.rmtree(data)
    write_reports(str(tmp_path))
    assert "<img" not in page(tmp_path)
    assert f"<td>{ids[1]}</td>" in page(tmp_path)


def test_text_from_the_data_cannot_become_markup_or_mathematics(tmp_path: Path) -> None:
    nasty = '<img src=x onerror="alert(1)"> $\\frac{$ & \x07'
    rows = [row(c, (c + 1) % 3, mesh=nasty) for c in range(3)] + [row(0, None, error=nasty)]
    write_file(tmp_path, "a.parquet", rows, metadata(nasty, description=nasty, versions={nasty: nasty}))
    write_file(tmp_path, "b.parquet", rows, metadata("other/0"))
    write_manifest(tmp_path, class_names=[f"{nasty}{i}" for i in range(3)], model=nasty, data=nasty, settings={nasty: nasty})
    write_reports(str(tmp_path))
    html = page(tmp_path)
    assert "&lt;img src=x onerror=&#34;alert(1)&#34;&gt; $\\frac{$ &amp;" in html
    assert "<img src=x" not in html
    for svg in drawings(html):
        assert not [element for element in svg.iter() if element.tag in ("img", "script")]
    assert any("$\\frac{$ & " in (each.text or "") for svg in drawings(html) for each in svg.iter())

"""The page: complete, labelled, safe, and readable in both colour schemes."""

import base64
import hashlib
import io
import re
import shutil
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.pipeline.sources import open_source
from jobs.reporting.comparison.compare import compare
from jobs.reporting.page.markup import render
from jobs.reporting.page.measured import SCALING, SYNTHETIC, scaling_page, synthetic_page
from jobs.reporting.page.page import RUN, draw
from jobs.reporting.schema import Summary
from jobs.reporting.write import count_run, write_reports
from jobs.running.manifest import Manifest
from tests.jobs.prediction_files import START, metadata, row, write_file, write_manifest
from tests.jobs.reporting.conftest import a_run, drawings, page, read, reported


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


@pytest.mark.parametrize(("classes", "meshes", "files"), [(10, 3, 6), (1000, 12, 48)])
def test_the_page_is_complete_and_needs_nothing_from_elsewhere(tmp_path: Path, classes: int, meshes: int, files: int) -> None:
    a_run(tmp_path, classes, meshes, files)
    write_manifest(tmp_path, class_names=[f"kind {i}" for i in range(classes)], settings={"device": "auto", "limit": None})
    html = reported(tmp_path)
    sections = ["Accuracy by class", "Most confused pairs", "What could not be read", "Calibration", "Time and throughput"]
    assert re.findall("<h2>(.*)</h2>", html) == [*sections, "Configuration and versions"]
    assert "<dt>Device</dt><dd>cpu, float32</dd>" in html
    for name, value in (("device", "auto"), ("torch version", "2.13.0")):
        assert f"<td>{name}</td><td>{value}</td>" in html
    assert "<td>limit</td>" not in html  # it was not set
    assert len(drawings(html)) == (5 if classes == 10 else 6)
    assert ('<table class="matrix">' in html, "Top-5" in html) == (classes == 10, classes > 10)
    assert not re.search(r"<(link|iframe|object)|https?://|url\((?!#)|src=\"(?!data:image)", html)
    assert len(html) < 1_000_000
    table, *_ = re.findall(r'<table class="sortable">.*?</table>', html, re.DOTALL)
    rows = [[(cell.text or "").strip() for cell in found] for found in ElementTree.fromstring(table).iterfind("tbody/tr")]
    by_class = {str(r["class"]): r for r in read(tmp_path, "per_class") if r["images"]}
    assert [found[0] for found in rows] == sorted(by_class, key=lambda each: (by_class[each]["accuracy"], int(each)))
    for number, name, top1, _, *more in rows:
        about = by_class[number]
        assert (name, top1, more[classes > 10]) == (about["name"], f"{about['accuracy']:.1%}", f"{about['images']:,}")


def test_the_page_runs_no_script_but_the_one_its_policy_names(steady: tuple[Path, Summary]) -> None:
    html = page(steady[0])
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r" on\w+=", html.replace(script, ""))


def test_faults_are_marked_where_they_were_noticed(tmp_path: Path) -> None:
    for mesh in ("host-a/0-3", "host-b/0-3"):
        rows = [row(0, 0, batch=b, at=b, seconds=1.0) for b in range(20) for _ in range(4)]
        write_file(tmp_path, f"{mesh[:6]}.parquet", rows, metadata(mesh))
    ended = {"attempt": 1, "started_at": START.isoformat(), "ended_at": START.isoformat(), "state": "finished"}
    at = START.timestamp() + 5
    events = [{"at": at + i, "kind": "retry", "where": "decode", "what": "again"} for i in range(3)]
    events.append({"at": at, "kind": "restart", "where": "host-b/0-3", "what": "the actor was replaced"})
    write_manifest(tmp_path, attempts=[{**ended, "events": events, "lost_hosts": ["host-c"], "restarts": 1}])
    html = reported(tmp_path)
    assert re.findall(r"</i> (re\w+: \d)</span>", html) == ["restart: 1", "retry: 3"]
    assert re.findall(r'class="mark" style="left:([\d.]+)%[^>]* title="restart: host-b/0-3"', html) == ["25.0"]
    assert any(each.endswith("5 faults, 4 of them marked") for each in drawings(html))
    assert "1 without a time are not marked" in html


@pytest.mark.parametrize("layout", ["class folders", "parquet"])
def test_pictures_are_shown(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
    html = reported(tmp_path)
    found = re.findall(r'<img [^>]*loading="lazy"[^>]* alt="([^"]*)"[^>]* src="data:image/jpeg;base64,([\w+/=]+)"', html)
    mistake, sample = (f"class 1, taken for class 2: {ids[1]}, 90.0% sure", f"class 0: {ids[0]}, 90.0% sure")
    assert [says for says, _ in found] == [mistake, mistake, sample, mistake, sample]  # pair; mistakes; doubts; class
    assert re.findall("<h3>(.*)</h3>", html)[:3] == [
        "Most certain mistakes", "Least certain answers", "A sample of each predicted class",
    ]  # fmt: skip
    with Image.open(io.BytesIO(base64.b64decode(found[0][1]))) as shown:
        assert shown.size == (112, 112)
        assert np.allclose(np.asarray(shown), (0, 255, 0), atol=4)
    assert reported(tmp_path) == html
    monkeypatch.setattr("jobs.reporting.page.page.MOST_PICTURE_BYTES", 2 * len(found[0][1]))
    assert reported(tmp_path).count("<img") == 2
    shutil.rmtree(data)
    write_reports(str(tmp_path))
    assert f"no pictures on the page: its images cannot be read again at {data}" in capsys.readouterr().err
    assert "<img" not in page(tmp_path)
    assert f">{ids[1]}</td>" in page(tmp_path)


def test_text_from_the_data_cannot_become_markup_or_mathematics(tmp_path: Path) -> None:
    nasty = '<img src=x onerror="alert(1)"> $\\frac{$ & \x07'
    rows = [row(c, (c + 1) % 3, mesh=nasty) for c in range(3)] + [row(0, None, error=nasty)]
    write_file(tmp_path, "a.parquet", rows, metadata(nasty, description=nasty, versions={nasty: nasty}))
    write_file(tmp_path, "b.parquet", rows, metadata("other/0"))
    write_manifest(tmp_path, class_names=[f"{nasty}{i}" for i in range(3)], model=nasty, data=nasty, settings={nasty: nasty})
    html = reported(tmp_path)
    assert "&lt;img src=x onerror=&#34;alert(1)&#34;&gt; $\\frac{$ &amp;" in html
    assert "<img src=x" not in html


def test_the_page_says_what_was_run_and_lists_what_could_not_be_read(tmp_path: Path) -> None:
    rows = [row(0, 0), *(row(1, None, image_id=f"bad/{i}.jpg", error="empty file") for i in range(3))]
    write_file(tmp_path, "a.parquet", rows, metadata())
    attempt = {"attempt": 1, "ended_at": "", "state": "finished"}
    names = ["cat", "dog", "fox"]
    write_manifest(tmp_path, class_names=names, data="/nowhere/pets/images", model="acme/vit-pets", attempts=[attempt])
    reports = count_run(str(tmp_path))
    assert reports.manifest is not None
    for chosen, title in (({}, "pets/images classified by vit-pets"), ({"title": "My pets", "max_errors": 0.5}, "My pets")):
        reports.manifest.chosen = chosen
        summary = reports.summary()
        html = render(RUN, s=summary, **draw(reports, summary, None))
        assert f"<h1>{title}</h1>" in html.replace("\n", "")
        assert ("more than --max-errors allows\n  (2)" in html) == bool(chosen)
    assert "<dt>Command</dt><dd>python -m jobs.imagenet --title &#39;My pets&#39; --max-errors 50%</dd>" in html
    assert re.findall(r"<td>(bad/\d.jpg)</td><td>empty file</td>", html) == ["bad/0.jpg", "bad/1.jpg", "bad/2.jpg"]


def measured_pages(meshes: int) -> list[str]:
    """Of jobs.synthetic and jobs.scaling, on so many meshes."""
    nothing = dict.fromkeys((name for _, name, _ in (*SYNTHETIC, *SCALING)), 1.0)
    row = nothing | {"description": "simulated T3000", "batch_size": 64, "too_short": "1 s, below 60 s", "bound": "device"}
    manifest = Manifest("run-1", "scaling", "random images", "vit", "ab", [], None, {"seed": 0}, {})
    sizes = [row | {"scaling": kind, "meshes": n, "images": n} for kind in ("weak", "strong") for n in range(1, meshes + 1)]
    names = [*(f"host/{n}" for n in range(meshes)), "system"]
    rows = [row | {"mesh": name, "images": 640} for name in names]
    return [synthetic_page(manifest, rows, np.full(20, 0.5)), scaling_page(manifest, sizes, "bound with 2 meshes: device", "")]


def faults(html: str) -> list[str]:
    """What a screen reader would stumble over."""
    found = ["a table without a caption"] if html.count("<table") != html.count("<caption") else []
    levels = [1, *map(int, re.findall(r"<h([1-6])", html))]
    found += [f"h{below} below h{above}" for above, below in pairwise(levels) if below > above + 1]
    for tag, name in re.findall(r"(<(\w+)[^>]*>)", html):
        has = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        for fault, wrong in {
            "no language": name == "html" and not has.get("lang"),
            "a picture without words": name == "img" and not has.get("alt"),
            "a heading of no column or row": name == "th" and has.get("scope") not in ("col", "row"),
            "a region without a name": has.get("role") in ("region", "img") and not has.get("aria-label"),
            "a box that no key scrolls": "scroll" in has.get("class", "").split() and has.get("tabindex") != "0",
        }.items():
            found += [f"{fault}: {tag}"] if wrong else []
    return found


def test_a_screen_reader_finds_its_way(tmp_path: Path, steady: tuple[Path, Summary]) -> None:
    a_run(tmp_path / "many", classes=60, meshes=9, files=27)
    write_file(tmp_path / "plain", "a.parquet", [row(None, 1), row(None, None)], metadata())
    pages = [page(steady[0]), reported(tmp_path / "many"), reported(tmp_path / "plain")]
    compare(str(steady[0]), str(tmp_path / "many"), str(tmp_path))
    for html in [*pages, (tmp_path / "comparison.html").read_text(), *measured_pages(2), *measured_pages(1)]:
        assert faults(html) == []
    assert len(faults("<table><tr><th>a</th></tr></table><h3>b</h3><img>")) == 4

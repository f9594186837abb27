"""Partial counts add up to the same whatever the grouping, and to what a plain reading of the rows gives."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.reporting.counts import CERTAIN, MAX_REASONS, MAX_WINDOWS, WINDOWS, Counting, Counts
from jobs.reporting.tables import Reports
from tests.jobs.prediction_files import START, chunk, metadata, row, table
from tests.jobs.reporting.conftest import plain

START_NS = int(START.timestamp()) * 10**9
COUNTING = Counting()


def count(rows: list[dict], *chunks: dict) -> Counts:
    return COUNTING.count(table(rows), *(chunks or (metadata(),)))


def column(counts: Counts, name: str, *columns: str) -> list:
    """The rows of one of the tables as tuples, in order; of one column its values."""
    rows = [tuple(each[c] for c in columns) for each in counts[name].to_pylist()]
    return sorted((row if len(columns) > 1 else row[0] for row in rows), key=str)


def various_parts() -> Iterator[Counts]:
    """Counts of unlike files: two meshes and attempts, fast and slow batches, days apart, many kinds of errors."""
    rng = np.random.default_rng(7)
    for mesh, attempt, start, seconds in [
        ("host-a/0-3", 1, 0.0, 0.006),
        ("host-a/0-3", 1, 40.0, 0.2),
        ("host-b/0-3", 1, 0.01, 3.7),
        ("host-b/0-3", 2, 90_000.0, 0.01),
        ("host-a/0-3", 2, 400_000.0, 400.0),
    ]:
        about = {"compile_seconds": start % 7, "start": {"open": start % 5}, "opened_at": START_NS / 1e9}
        yield COUNTING.count(chunk(rng, 96, 12, 8, start, seconds), metadata(mesh, attempt, batch_size=8, **about))
    for start in (0, 300):
        words = [f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)} of kind {chr(97 + i // 676)}" for i in range(start, start + 400)]
        yield count([row(1, None, error=word) for word in words])


PARTS = list(various_parts())
WHOLE = COUNTING.merge(*PARTS)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(len(PARTS))), cuts=st.sets(st.integers(1, len(PARTS) - 1)))
def test_counts_merge_to_the_same_in_any_order_and_grouping(order: list[int], cuts: set[int]) -> None:
    parts, bounds = [PARTS[i] for i in order], [0, *sorted(cuts), len(PARTS)]
    assert plain(COUNTING.merge(*(COUNTING.merge(*parts[a:b]) for a, b in pairwise(bounds)))) == plain(WHOLE)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 299))
def test_chunks_count_the_same_together_and_apart(seed: int, cut: int) -> None:
    rows = chunk(np.random.default_rng(seed), 300, 6, 8, 0.0, 0.05)
    chunks = [metadata(chunk=f"one.{part:05}", batch_size=8, rows=part) for part in (cut, 300 - cut)]
    parts = [COUNTING.count(rows.slice(0, cut), chunks[0]), COUNTING.count(rows.slice(cut), chunks[1])]
    assert plain(COUNTING.merge(*parts)) == plain(COUNTING.count(rows, *chunks))


def test_windows_and_reasons_stay_few_when_work_spans_days_and_every_error_is_another() -> None:
    assert len(set(column(WHOLE, "windows", "attempt", "since"))) <= MAX_WINDOWS
    assert len(WHOLE["reasons"]) <= MAX_REASONS
    errors, images = sum(column(WHOLE, "reasons", "images")), sum(column(WHOLE, "answers", "images"))
    assert errors == sum(each["images"] for each in WHOLE["answers"].to_pylist() if each["prediction"] is None)
    assert sum(column(WHOLE, "windows", "images")) == sum(column(WHOLE, "spans", "images")) == images - errors


def test_counts_of_four_times_the_rows_are_no_larger() -> None:
    rng = np.random.default_rng(3)
    parts = [COUNTING.count(chunk(rng, 256, 10, 32, i, 0.05), metadata(batch_size=32)) for i in range(20)]
    few, many = (sum(table.nbytes for table in COUNTING.merge(*parts[:n]).values()) for n in (5, 20))
    assert many < 1.5 * few


def test_counts_equal_a_plain_reading_of_the_rows() -> None:
    rows = [row(0, 0), row(0, 2), row(0, 2), row(1, 1), row(1, None), row(None, 3, batch=1), row(None, None)]
    counts = count([*rows, row(102, 4, batch=1)])  # of the last, 102 is among the five best
    assert column(counts, "answers", "label", "prediction", "images", "top5") == [
        (0, 0, 1, 1), (0, 2, 2, 0), (1, 1, 1, 1), (1, None, 1, None), (102, 4, 1, 1), (None, 3, 1, None), (None, None, 1, None),
    ]  # fmt: skip


def sure(probability: float, label: int | None, prediction: int = 0, **changes: Any) -> dict:
    """A row whose answer has this confidence."""
    return row(label, prediction, top5_probability=[probability, *[(1 - probability) / 4] * 4], **changes)


def test_confidence_is_binned_from_above_a_bound_to_the_next_over_labelled_classified_images() -> None:
    rows = [sure(0.0, 0), sure(1 / 15, 1), sure(0.07, 0), sure(0.5, 0), sure(0.5, 1), sure(1.0, 0), sure(0.9, None), row(0, None)]
    found = column(count(rows), "confidence", "bin", "images", "correct")
    assert found == [(0, 2, 1), (1, 1, 1), (14, 1, 1), (7, 2, 1)]
    assert dict(column(count(rows), "confidence", "bin", "confidence"))[7] == CERTAIN


@settings(deadline=None, max_examples=8)
@given(confidences=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50), cut=st.integers(0, 50))
def test_confidences_add_up_to_the_same_integer_in_any_order_and_near_their_sum(confidences: list[float], cut: int) -> None:
    files = [[sure(each, 0) for each in part] for part in (confidences[:cut], confidences[cut:], confidences[::-1]) if part]
    *parts, backwards = map(count, files)
    assert plain(COUNTING.merge(*parts))["confidence"] == plain(backwards)["confidence"]
    total = sum(column(backwards, "confidence", "confidence")) / CERTAIN
    assert total == pytest.approx(sum(confidences), abs=50 / CERTAIN)


def test_the_example_of_a_pair_is_its_surest_image_wherever_it_is() -> None:
    first = count([sure(0.6, 1, image_id="b"), sure(0.9, 0, image_id="right")], metadata(chunk="one.00000"))
    others = [sure(0.7, 1, 2), sure(0.8, 1, image_id="z"), sure(0.8, 1, image_id="a")]
    found = COUNTING.merge(first, count(others, metadata(chunk="two.00002", rows=1), metadata(chunk="two.00003", rows=2)))
    surest: dict[tuple[int, int], dict] = {}
    for each in sorted(found["examples"].to_pylist(), key=lambda each: each["kept"]["turn"]):
        surest.setdefault((each["label"], each["prediction"]), each["kept"])
    assert surest[1, 2]["chunk"] == "two.00002"
    assert [surest[1, 0][name] for name in ("image_id", "chunk", "row")] == ["a", "two.00003", 1]


def test_only_full_batches_enter_inference_time_and_each_once() -> None:
    rows = [row(0, 0, batch=0, seconds=0.2) for _ in range(4)] + [row(0, 0, batch=1, at=0.2, seconds=9.0) for _ in range(3)]
    assert column(count(rows, metadata(batch_size=4)), "batch_times", "batches", "time") == [(1, 200_000_000)]


@settings(max_examples=12, deadline=None)
@given(times=st.lists(st.floats(20e-6, 3600), min_size=1, max_size=60))
def test_quantiles_are_within_half_a_percent_of_the_sorted_batch_times(times: list[float]) -> None:
    counts = count([row(0, 0, batch=i, seconds=t) for i, t in enumerate(times)], metadata(batch_size=1))
    summary = Reports(counts, None).summary()
    for share, found in ((0.5, summary.inference_p50_ms), (0.99, summary.inference_p99_ms)):
        assert found == pytest.approx(sorted(times)[int(np.ceil(share * len(times))) - 1] * 1e3, rel=0.005)


@pytest.mark.parametrize(("seconds", "bounds"), [(1e-6, (10_000, 10_099)), (1e6, None)])
def test_a_batch_time_beyond_all_buckets_is_in_the_outermost(seconds: float, bounds: tuple[int, int] | None) -> None:
    [found] = column(count([row(0, 0, seconds=seconds)], metadata(batch_size=1)), "batch_times", "low", "high")
    assert found == bounds if bounds else found[1] > 27 * 3600 * 1e9


def test_a_long_batch_is_shared_out_over_the_windows_it_lasted() -> None:
    counts = count([row(0, 0, batch=5, at=0.05, seconds=0.4) for _ in range(8)])
    expected = [(1, 50, 1), (2, 100, 0), (2, 100, 0), (2, 100, 0), (1, 50, 0)]
    assert set(column(counts, "windows", "length")) == {WINDOWS[0]}
    found = column(counts, "windows", "since", "images", "busy", "batches")
    assert [each[1:] for each in found] == [(images, busy * 10**6, batches) for images, busy, batches in expected]


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize(("starts", "until"), [((0.0, 10.0, 10.0), 12), ((0.0, 0.0, 0.0), 3)])
def test_batches_in_flight_together_are_counted_one_after_the_other(files: int, starts: tuple[float, ...], until: int) -> None:
    rows = [row(0, 0, batch=b, at=at, seconds=1.0) for b, at in enumerate(starts)]
    counts = COUNTING.merge(*(count(rows[n::files]) for n in range(files)))
    summary = Reports(counts, None).summary()
    assert summary.active_seconds == (until if files == 1 or starts[1] == 0 else 11)  # apart, two overlap for all they tell
    assert column(counts, "spans", "start") == [START_NS]


def test_messages_that_differ_in_numbers_or_addresses_are_one_reason() -> None:
    messages = ["truncated (12 of 900 bytes)", "truncated (7 of 1024 bytes)", "cannot identify <BytesIO at 0x7f3a>", "", None]
    rows = [row(0, None, error=message, image_id=f"{9 - i}.jpg") for i, message in enumerate(messages)]
    assert column(count(rows), "reasons", "reason", "images", "example") == [
        ("cannot identify <BytesIO at N>", 1, "7.jpg"),
        ("no prediction", 2, "5.jpg"),
        ("truncated (N of N bytes)", 2, "8.jpg"),
    ]

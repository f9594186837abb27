"""Partial counts add up to the same whatever the grouping, and to what a plain reading of the rows gives."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.reporting.batches import quantile
from jobs.reporting.counts import CERTAIN, Counts, count, wilson_interval
from jobs.reporting.reasons import MAX_REASONS
from jobs.reporting.windows import MAX_WINDOWS, WINDOWS
from tests.jobs.prediction_files import START, chunk, metadata, row, table

START_NS = int(START.timestamp()) * 10**9


def total(parts: list[Counts]) -> Counts:
    result = Counts()
    for part in parts:
        result += part
    return result


def various_parts() -> list[Counts]:
    """Counts of unlike files: two meshes and attempts, fast and slow batches, days apart, many kinds of errors."""
    rng = np.random.default_rng(7)
    parts = [
        count(chunk(rng, 96, 12, 8, start, seconds), metadata(mesh, attempt, batch_size=8, compile_seconds=start % 7))
        for mesh, attempt, start, seconds in [
            ("host-a/0-3", 1, 0.0, 0.006),
            ("host-a/0-3", 1, 40.0, 0.2),
            ("host-b/0-3", 1, 0.01, 3.7),
            ("host-b/0-3", 2, 90_000.0, 0.01),
            ("host-a/0-3", 2, 400_000.0, 400.0),
        ]
    ]
    for start in (0, 300):
        words = [
            f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)} cannot be read: kind {chr(97 + i // 676)}"
            for i in range(start, start + 400)
        ]
        parts.append(count(table([row(1, None, error=word) for word in words]), metadata()))
    return parts


PARTS = various_parts()
WHOLE = total(copy.deepcopy(PARTS))


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(len(PARTS))), cuts=st.sets(st.integers(1, len(PARTS) - 1)))
def test_counts_merge_to_the_same_in_any_order_and_grouping(order: list[int], cuts: set[int]) -> None:
    parts = [copy.deepcopy(PARTS[i]) for i in order]
    bounds = [0, *sorted(cuts), len(parts)]
    groups = [total(parts[a:b]) for a, b in pairwise(bounds)]
    assert total(groups) == WHOLE


def test_merging_leaves_the_merged_part_as_it_was() -> None:
    part, other = copy.deepcopy(PARTS[0]), copy.deepcopy(PARTS[1])
    whole = Counts()
    whole += part
    whole += other
    assert part == PARTS[0]
    assert other == PARTS[1]


def test_windows_and_reasons_stay_few_when_work_spans_days_and_every_error_is_another() -> None:
    assert len(WHOLE.windows.work) <= MAX_WINDOWS
    assert len(WHOLE.reasons.images) <= MAX_REASONS
    assert WHOLE.reasons.images.total() == WHOLE.errors
    assert sum(work.images for meshes in WHOLE.windows.work.values() for work in meshes.values()) == WHOLE.images - WHOLE.errors


def test_counts_of_four_times_the_rows_are_no_larger() -> None:
    rng = np.random.default_rng(3)
    parts = [count(chunk(rng, 128, 10, 64, i, 0.05), metadata(batch_size=64)) for i in range(400)]
    sizes = [len(pickle.dumps(total(parts[:n]))) for n in (100, 400)]
    assert sizes[1] < 1.2 * sizes[0]


def test_counts_equal_a_plain_reading_of_the_rows() -> None:
    rows = [
        row(0, 0, batch=0),
        row(0, 2, batch=0),
        row(0, 2, batch=0),
        row(1, 1, batch=0),
        row(1, None),
        row(None, 3, batch=1),
        row(None, None),
        row(102, 4, batch=1),  # 102 is among its five best
    ]
    counts = count(table(rows), metadata())
    assert (counts.images, counts.errors) == (8, 2)
    assert counts.confusion == {(0, 0): 1, (0, 2): 2, (1, 1): 1, (102, 4): 1}
    assert counts.top5 == {0: 1, 1: 1, 102: 1}
    assert counts.label_errors == {1: 1}
    assert counts.predicted == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1}


def sure(probability: float, label: int | None, prediction: int = 0, **changes: Any) -> dict:
    """A row whose answer has this confidence."""
    return row(label, prediction, top5_probability=[probability, *[(1 - probability) / 4] * 4], **changes)


def test_confidence_is_binned_from_above_a_bound_to_the_next_over_labelled_classified_images() -> None:
    rows = [sure(0.0, 0), sure(1 / 15, 1), sure(0.07, 0), sure(0.5, 0), sure(0.5, 1), sure(1.0, 0), sure(0.9, None), row(0, None)]
    counts = count(table(rows), metadata())
    assert counts.confident == {0: 2, 1: 1, 7: 2, 14: 1}
    assert counts.confident_correct == {0: 1, 1: 1, 7: 1, 14: 1}
    assert counts.confidence[7] == CERTAIN
    assert counts.confidence[14] == CERTAIN


@given(confidences=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50), cut=st.integers(0, 50))
def test_confidences_add_up_to_the_same_integer_in_any_order_and_near_their_sum(confidences: list[float], cut: int) -> None:
    files = [[sure(each, 0) for each in part] for part in (confidences[:cut], confidences[cut:], confidences[::-1]) if part]
    *parts, backwards = (count(table(rows), metadata()) for rows in files)
    assert total(parts).confidence == backwards.confidence
    assert backwards.confidence.total() / CERTAIN == pytest.approx(sum(confidences), abs=50 / CERTAIN)


def test_the_example_of_a_pair_is_its_surest_image_wherever_it_is() -> None:
    first = count(table([sure(0.6, 1, image_id="b"), sure(0.9, 0, image_id="right")]), metadata(chunk="one.00000"))
    other = count(table([sure(0.7, 1, 2), sure(0.8, 1, image_id="z"), sure(0.8, 1, image_id="a")]), metadata(chunk="two.00003"))
    found = total([first, other]).examples
    assert found.keys() == {(1, 0), (1, 2)}
    assert (found[1, 0].image_id, found[1, 0].chunk, found[1, 0].row) == ("a", "two.00003", 2)
    assert total([other, first]).examples == found


def test_only_full_batches_enter_inference_time_and_each_once() -> None:
    rows = [row(0, 0, batch=0, seconds=0.2) for _ in range(4)] + [row(0, 0, batch=1, at=0.2, seconds=9.0) for _ in range(3)]
    counts = count(table(rows), metadata(batch_size=4))
    assert counts.batch_times.total() == 1
    assert counts.full_batch_time == 200_000_000


@settings(max_examples=30, deadline=None)
@given(
    times=st.lists(st.floats(20e-6, 3600), min_size=1, max_size=60),
    share=st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]),
)
def test_quantiles_are_within_half_a_percent_of_the_sorted_batch_times(times: list[float], share: float) -> None:
    counts = count(table([row(0, 0, batch=i, seconds=t) for i, t in enumerate(times)]), metadata(batch_size=1))
    exact = sorted(times)[int(np.ceil(share * len(times))) - 1]
    assert quantile(counts.batch_times, share) == pytest.approx(exact * 1e9, rel=0.005)


def test_there_is_no_quantile_of_no_batches() -> None:
    assert quantile(Counter(), 0.5) is None


def test_a_long_batch_is_shared_out_over_the_windows_it_lasted() -> None:
    counts = count(table([row(0, 0, batch=5, at=0.05, seconds=0.4) for _ in range(8)]), metadata())
    assert WINDOWS[counts.windows.length] == 100_000_000
    work = [meshes["host-a/0-3"] for _, meshes in sorted(counts.windows.work.items())]
    assert [each.images for each in work] == [1, 2, 2, 2, 1]
    assert [each.busy for each in work] == [50_000_000, 100_000_000, 100_000_000, 100_000_000, 50_000_000]
    assert [each.batches for each in work] == [1, 0, 0, 0, 0]


def test_batches_in_flight_together_are_counted_one_after_the_other() -> None:
    rows = [row(0, 0, batch=b, at=at, seconds=1.0) for b, at in enumerate((0.0, 10.0, 10.0))]
    counts = count(table(rows), metadata())
    (span,) = counts.spans.values()
    assert (span.first, span.end) == (START_NS, START_NS + 12 * 10**9)
    assert all(work.busy == WINDOWS[0] for meshes in counts.windows.work.values() for work in meshes.values())


def test_batches_in_flight_together_from_two_files_end_one_after_the_other() -> None:
    parts = [count(table([row(0, 0, batch=b, at=0.0, seconds=1.0)]), metadata()) for b in range(3)]
    (span,) = total(parts).spans.values()
    assert (span.first, span.end) == (START_NS, START_NS + 3 * 10**9)


def test_messages_that_differ_in_numbers_or_addresses_are_one_reason() -> None:
    messages = ["truncated (12 of 900 bytes)", "truncated (7 of 1024 bytes)", "cannot identify <BytesIO at 0x7f3a>"]
    rows = [row(0, None, error=message, image_id=f"{9 - i}.jpg") for i, message in enumerate(messages)]
    reasons = count(table(rows), metadata()).reasons
    assert reasons.images == {"truncated (N of N bytes)": 2, "cannot identify <BytesIO at N>": 1}
    assert reasons.first == {"truncated (N of N bytes)": "8.jpg", "cannot identify <BytesIO at N>": "7.jpg"}


@given(trials=st.integers(1, 10**9), share=st.floats(0, 1))
def test_wilson_interval_holds_the_proportions_within_z_standard_errors(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    for bound in (low, high):  # by definition the observed share is z standard errors from each bound
        z = abs(successes / trials - bound) - 1.959964 * np.sqrt(bound * (1 - bound) / trials)
        assert z == pytest.approx(0, abs=1e-6)


def test_wilson_interval_of_eight_in_ten_is_the_textbooks() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)

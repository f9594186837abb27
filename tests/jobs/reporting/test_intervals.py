"""The test and the interval of a paired comparison agree with published values, and with counting out every outcome."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.reporting.intervals import difference_interval, mcnemar


def by_counting(lost: int, gained: int) -> float:
    """Of all 2^n ways the changes could have fallen, the share at least as uneven."""
    n = lost + gained
    outcomes = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(lost - gained))
    return outcomes / 2**n


@given(lost=st.integers(0, 150), gained=st.integers(0, 150))
def test_the_p_value_counts_every_outcome_as_uneven_as_the_one_seen(lost: int, gained: int) -> None:
    assert mcnemar(lost, gained) == pytest.approx(by_counting(lost, gained), rel=1e-10)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


def test_the_p_value_of_millions_of_changes_meets_its_normal_limit() -> None:
    lost, gained = 50_000_000, 50_020_000
    z = (gained - lost - 1) / math.sqrt(lost + gained)  # 1: of a count, with the continuity correction
    assert mcnemar(lost, gained) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert mcnemar(1, 10_000_000) == 0.0


def test_p_value_and_interval_are_the_published_ones() -> None:
    """Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91 (2013): 1 and 7 discordant pairs, p = 0.070.

    The worked example that accompanies Bonett's own implementation: 26 and 4 discordant of 40.
    """
    assert mcnemar(1, 7) == pytest.approx(0.0703125, rel=1e-12)
    assert difference_interval(4, 26, 40) == pytest.approx((0.3126438, 0.7349752), abs=5e-8)
    assert difference_interval(26, 4, 40) == pytest.approx((-0.7349752, -0.3126438), abs=5e-8)


@given(pairs=st.integers(1, 10**9), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_the_interval_stays_within_what_is_possible_and_holds_what_was_seen(pairs: int, shares: tuple[float, float]) -> None:
    lost = round(shares[0] * pairs)
    gained = round(shares[1] * (pairs - lost))
    low, high = difference_interval(lost, gained, pairs)
    assert -1 <= low <= (gained - lost) / pairs <= high <= 1

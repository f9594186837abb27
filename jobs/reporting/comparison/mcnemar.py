"""Whether two classifiers differ on the same images: McNemar's exact test, and an interval for the difference in accuracy.

Both look only at the images on which exactly one of the two is right: `lost`, right before and wrong after, and `gained`.
"""

from __future__ import annotations

import math

NORMAL_95 = 1.959963984540054


def mcnemar(lost: int, gained: int) -> float:
    """The two-sided p-value of McNemar's exact conditional test (McNemar, Psychometrika 12, 1947).

    How likely, if losing and gaining were equally likely, a split as uneven as this one would be: twice the binomial tail
    of the rarer kind, at most 1; and 1 where nothing changed. Never rejects more often than its level says, unlike the mid-p and
    asymptotic forms, which it is a little more cautious than. Exact by summation, in O(sqrt(lost + gained)) terms.
    """
    few, n = min(lost, gained), lost + gained
    if 2 * few >= n - 1:  # an even split, or as even as an odd number allows
        return 1.0
    # Terms of the tail relative to its largest, which comes first and below which each is smaller by the ratio k / (n - k + 1).
    term = total = 1.0
    for k in range(few, 0, -1):
        term *= k / (n - k + 1)
        total += term
        if term < 1e-17 * total:
            break
    log_largest = math.lgamma(n + 1) - math.lgamma(few + 1) - math.lgamma(n - few + 1) - n * math.log(2)
    return min(1.0, 2 * total * math.exp(log_largest))


def difference_interval(lost: int, gained: int, pairs: int) -> tuple[float, float]:
    """The 95% interval of accuracy after minus accuracy before, over `pairs` images > 0.

    Wald's with one image added to each kind of change (Bonett and Price, J. Educational and Behavioral Statistics 37, 2012),
    which covers 95% or, where changes are a few, more; there the plain one shrinks to nothing.
    """
    n = pairs + 2
    before, after = (lost + 1) / n, (gained + 1) / n
    middle = after - before
    half = NORMAL_95 * math.sqrt((before + after - middle * middle) / n)
    return max(-1.0, middle - half), min(1.0, middle + half)

"""Whether two classifiers differ on the same images: McNemar's exact test, and an interval for the difference in accuracy.

Both look only at the images on which exactly one of the two is right: `lost`, right before and wrong after, and `gained`.
"""

import math

NORMAL_95 = 1.959963984540054


def mcnemar(lost: int, gained: int) -> float:
    """The two-sided p-value of McNemar's exact conditional test (McNemar, Psychometrika 12, 1947); 1 where nothing changed.

    How likely, if losing and gaining were equally likely, a split as uneven as this one would be. Never rejects more often than
    its level says, unlike the mid-p and asymptotic forms, which it is a little more cautious than.
    """
    from scipy.special import bdtr  # type: ignore[import-untyped]  # takes a while

    return min(1.0, 2 * float(bdtr(min(lost, gained), lost + gained, 0.5)))


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

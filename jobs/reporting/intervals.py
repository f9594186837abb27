"""How sure a share or the difference of two is: intervals of 95%, and whether two classifiers differ on the same images.

A comparison looks only at images on which exactly one of the two is right: `lost`, right before and wrong after, and `gained`.
"""

import math

NORMAL_95 = 1.959963984540054  # The normal quantile of 95% coverage

WILSON = f"""
CREATE MACRO share(k, n) AS CASE WHEN n > 0 THEN k / n END;
CREATE MACRO wilson(k, n, sign) AS (k / n + {NORMAL_95}e0 * {NORMAL_95}e0 / n / 2
    + sign * ({NORMAL_95}e0 * sqrt(k / n * (1 - k / n) / n + {NORMAL_95}e0 * {NORMAL_95}e0 / n / (4 * n))))
  / (1 + {NORMAL_95}e0 * {NORMAL_95}e0 / n);
CREATE MACRO low(k, n) AS CASE WHEN n > 0 THEN greatest(0, wilson(k, n, -1)) END;
CREATE MACRO high(k, n) AS CASE WHEN n > 0 THEN least(1, wilson(k, n, 1)) END;
"""
"""SQL of a proportion of k in n, and of the ends of its 95% Wilson score interval; null of nothing."""


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

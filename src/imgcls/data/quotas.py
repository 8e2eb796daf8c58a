"""How many images of each class a sample gets."""

from __future__ import annotations

import numpy as np

from imgcls.data.source import Indices


def quotas(sizes: Indices, count: int, ceiling: Indices, lots: Indices, rule: int) -> Indices:
    """How many of each class, at most its ceiling. lots: the order of classes of equal remainders; rule: see split."""
    if rule == 1:
        exact = sizes * (count / int(sizes.sum()))
        whole = np.floor(exact).astype(np.int64)
        by_remainder = np.argsort(-(exact - np.floor(exact)), kind="stable")
    else:
        whole, remainder = np.divmod(sizes * count, sizes.sum())  # in whole numbers, where equal is equal
        by_remainder = np.lexsort((lots, -remainder))
    found: Indices = np.minimum(whole, ceiling)
    while found.sum() < count and (found < ceiling).any():
        for i in by_remainder:
            if found.sum() < count and found[i] < ceiling[i]:
                found[i] += 1
    return found

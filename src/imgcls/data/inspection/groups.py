"""Which pictures belong together: byte for byte the same, or nearly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from imgcls.data.inspection.near import near_pairs
from imgcls.data.inspection.pictures import Pictures
from imgcls.data.source import Indices

LEAST = 16  # pixels per side: smaller pictures are alike too easily, only equal ones are found
Groups = list[list[int]]  # rows, the best picture of each group first


def equal_groups(pictures: Pictures) -> Groups:
    """Groups of two or more pictures with the same content."""
    by_digest: dict[str, list[int]] = defaultdict(list)
    for row, facts in enumerate(pictures.facts):
        if facts.digest:
            by_digest[facts.digest].append(row)
    return [rows for rows in by_digest.values() if len(rows) > 1]


def near_groups(pictures: Pictures, equal: Groups) -> Groups:
    """Groups of two or more pictures that are nearly the same; of equal ones only the first takes part.

    The first of a group is the largest, of about equal size that of the larger file, else the first in the data set.
    """
    copies = {row for rows in equal for row in rows[1:]}
    rows = [
        row
        for row, facts in enumerate(pictures.facts)
        if facts.digest and row not in copies and min(facts.height, facts.width) >= LEAST
    ]
    pairs = near_pairs(pictures.gray[rows], pictures.color[rows]) if rows else ()

    def worth(row: int) -> tuple[int, int, int]:
        facts = pictures.facts[row]
        return -facts.height * facts.width, -facts.size.bit_length(), row

    return [sorted((rows[one] for one in group), key=worth) for group in joined(pairs)]


def joined(pairs: Sequence[Indices] | Indices) -> Groups:
    """Groups in which each number is paired with another of its group, at least indirectly."""
    parent: dict[int, int] = {}

    def root(number: int) -> int:
        parent.setdefault(number, number)
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    for one, other in pairs:
        low, high = sorted((root(int(one)), root(int(other))))
        parent[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for number in sorted(parent):
        groups[root(number)].append(number)
    return list(groups.values())

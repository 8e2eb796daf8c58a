"""A comparison for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from imgcls.compare.recipes import plain
from imgcls.text import line, listing, one_line

MOST_PAIRS = 15  # of more, only those with the best one
NAMED = 5  # images of each side
CHANCE = 0.05  # p-values below it are called a difference


def describe(comparison: Mapping[str, Any]) -> Iterator[str]:
    """The lines, under 80 columns as far as the names allow. Runs are numbered from 1."""
    runs, pairs = comparison["runs"], comparison["pairs"]
    yield line("question", _question(comparison))
    yield f"images   {runs[0]['n']:,} of {one_line(comparison['dataset'])} ({comparison['split']}), the same for all"
    yield "\n     accuracy               seeds         run"
    for i, run in enumerate(runs, start=1):
        yield f"{i:>3}  {_accuracy(run):<21}  {_seeds(run['seeds']):<12}  {one_line(run['name'])}"
    numbers = {run["name"]: i for i, run in enumerate(runs, start=1)}
    best = max(runs, key=lambda run: run["accuracy"])["name"]
    shown = pairs if len(pairs) <= MOST_PAIRS else [pair for pair in pairs if best in (pair["a"], pair["b"])]
    which = "only" if comparison["question"] == "checkpoints" else "more"
    yield f"\npair     difference in points         p  {which} 1st  {which} 2nd"
    yield from (_pair(pair, numbers) for pair in shown)
    if len(shown) < len(pairs):
        yield f"... {len(shown)} of {len(pairs)} pairs, those with the best; --json has all"
    yield ""
    yield line("test", listing(sorted({pair["test"] for pair in pairs})))
    if len(pairs) > 1:
        yield line("note", f"of {len(pairs)} pairs of equals, about {len(pairs) / 20:.2g} would be called different")
    yield from _differs(comparison["config_differs"], numbers)
    if len(pairs) == 1:
        yield from _examples(pairs[0], which)


def _question(comparison: Mapping[str, Any]) -> str:
    if comparison["question"] == "recipes":
        return "which of these recipes is better, with a new seed and on new images?"
    only_seed = comparison["config_differs"].keys() == {"seed"}
    seeds = (
        "they are of one recipe, and seeds alone make a difference" if only_seed else "which recipe takes more seeds"
    )
    return f"which of these checkpoints is better on new images? ({seeds})"


def _seeds(seeds: Sequence[int]) -> str:
    """0 to 4, or 1, 7, ... (5 in all)"""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return listing(list(map(str, seeds)), 3)


def _accuracy(run: Mapping[str, Any]) -> str:
    low, high = (f"{end * 100:.1f}" for end in run["ci95"])
    return f"{run['accuracy'] * 100:.1f} % ({low} to {high})"


def _pair(pair: Mapping[str, Any], numbers: Mapping[str, int]) -> str:
    low, high = (f"{end * 100:+.1f}" for end in pair["ci95"])
    which = f"{numbers[pair['a']]} - {numbers[pair['b']]}"
    gap = f"{pair['difference'] * 100:+.1f} ({low} to {high})"
    verdict = "different" if pair["p_value"] < CHANCE else "may be chance"
    return f"{which:<7}  {gap:<21}  {pair['p_value']:8.2g}  {pair['only_a']:>8,}  {pair['only_b']:>8,}  {verdict}"


def _differs(differs: Mapping[str, Mapping[str, Any]], numbers: Mapping[str, int]) -> Iterator[str]:
    """A line for each key: 'optimizer.lr: 0.1 (1, 2), 0.01 (3)'"""
    if differs:
        yield ""
    for i, (key, values) in enumerate(differs.items()):
        by_value: dict[str, tuple[str, list[str]]] = {}
        for name, value in values.items():
            by_value.setdefault(json.dumps(value), (plain(value), []))[1].append(str(numbers[name]))
        said = ", ".join(f"{value} ({', '.join(which)})" for value, which in by_value.values())
        yield line("" if i else "differs", f"{key}: {said}")


def _examples(pair: Mapping[str, Any], which: str) -> Iterator[str]:
    """Some of the images that one of two alone gets right, or more often (which: only or more)."""
    how = "alone" if which == "only" else "more often"
    if pair["only_a"] or pair["only_b"]:
        yield ""
    for side, number in (("a", 1), ("b", 2)):
        names, count = list(map(str, pair[f"examples_{side}"])), pair[f"only_{side}"]
        if names:
            shown = f"{listing(names[:NAMED])}, ... ({count:,} in all)" if count > NAMED else listing(names)
            yield line("" if number > 1 and pair["only_a"] else "right", f"by {number} {how}: {shown}")

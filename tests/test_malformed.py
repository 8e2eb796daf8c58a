"""Malformed overrides, made from every key that there is: exit code 2, one line that names the key, nothing on disk."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgcls.cli import main
from tests.test_bad_inputs import EVERY, PATHS

Case = tuple[str, str, str]  # the option that has the key, the override, what the message must name
KEYS = [(choice, key) for choice, key in EVERY if key not in PATHS]


def typos() -> Iterator[Case]:
    """A letter left out, doubled, or swapped with the next: five for each key."""
    draw = random.Random(0)
    known = {key for _, key in EVERY}
    for choice, key in EVERY:
        outer, dot, name = key.rpartition(".")
        made: set[str] = set()
        while len(made) < min(5, len(name)):
            i = draw.randrange(len(name))
            words = (
                name[:i] + name[i + 1 :],
                name[:i] + name[i] + name[i:],
                name[:i] + name[i : i + 2][::-1] + name[i + 2 :],
            )
            word = f"{outer}{dot}{draw.choice(words)}"
            if word not in known and not word.endswith(".") and word:
                made.add(word)
        for word in sorted(made):
            yield choice, f"{word}=1", word


def wrong_types() -> Iterator[Case]:
    """Lists and groups where numbers, words and switches belong, each in two forms."""
    for choice, key in KEYS:
        for value in ("[[1],[2]]", "{a:{b:1}}"):
            yield choice, f"{key}={value}", key


def out_of_range() -> Iterator[Case]:
    """Numbers that no key takes."""
    for choice, key in KEYS:
        for value in ("-1000000000", "nan", "1e400"):
            yield choice, f"{key}={value}", key


def broken_grammar() -> Iterator[Case]:
    """What Hydra's grammar cannot read."""
    ends = ("=[1,2", "={a:1", "='abc", '="abc', "=${nope}", "=(1", "=a]", "=choice(1", "=1:2:", "=range(")
    for i, (choice, key) in enumerate(KEYS):
        for end in (ends[i % len(ends)], ends[(3 * i + 1) % len(ends)], ends[(7 * i + 5) % len(ends)]):
            yield choice, f"{key}{end}", key


KINDS = {"typo": typos, "type": wrong_types, "range": out_of_range, "grammar": broken_grammar}


def test_there_are_enough_of_them() -> None:
    assert sum(len({case[1] for case in cases()}) for cases in KINDS.values()) >= 600


@pytest.mark.parametrize("kind", KINDS)
def test_malformed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for choice, word, needle in KINDS[kind]():
        code = main(["train", choice, word])
        out, err = capsys.readouterr()
        lines = err.strip().splitlines()
        if code != 2 or len(lines) != 1 or out or needle not in err or "Traceback" in err:
            wrong.append(f"{choice} {word}: exit {code}, {err.strip()[:200]!r}")
    assert not wrong, "\n".join(wrong)
    assert list(Path().iterdir()) == []

"""Under -m a comma separates values; quotes keep it in a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgcls.compose.composer import Composer

# word, what its jobs get
CASES = {
    'dataset.root="a,b"': ["dataset.root=a,b"],
    "dataset.root='a,b'": ["dataset.root=a,b"],
    'dataset="./a,b"': ["dataset=./a,b"],
    'dataset="a,b"': ["dataset=a,b"],  # a folder of that name
    'dataset="./a,b",digits': ["dataset=./a,b", "dataset=digits"],
    'dataset=digits,"./a,b",./c': ["dataset=digits", "dataset=./a,b", "dataset=./c"],
    'dataset.root="a,b","c,d e"': ["dataset.root=a,b", "dataset.root=c,d e"],
    'dataset="./t,1.csv"': ["dataset=./t,1.csv"],
    'dataset.images="a,b"': ["dataset.images=a,b"],
    'dataset.root="it\'s, so"': ["dataset.root=it's, so"],
    'dataset.root="[a,b] = {c}"': ["dataset.root=[a,b] = {c}"],
    'sweep_dir="a,b"': ["sweep_dir=a,b"],
    "dataset.root=a,b": ["dataset.root=a", "dataset.root=b"],
    "dataset.root=it's,b": ["dataset.root=it's", "dataset.root=b"],
    'dataset.root="a,b': ['dataset.root="a', "dataset.root=b"],
    "dataset=./a,./b": ["dataset=./a", "dataset=./b"],
    'model="mlp","lenet"': ['model="mlp"', 'model="lenet"'],
}


@pytest.mark.parametrize("word", CASES)
def test_quotes_keep_a_comma_in_a_path(word: str) -> None:
    Path("a,b").mkdir()
    composer = Composer()
    assert [" ".join(composer.words(job)) for job in composer.expand([word])] == CASES[word]


def test_the_path_is_what_the_job_composes() -> None:
    Path("a,b").mkdir()
    composer = Composer()
    for word in ('dataset="./a,b"', "dataset.root='a,b'"):
        words = [word] if word.startswith("dataset=") else ["dataset=imagefolder", word]
        (job,) = composer.expand(words)
        assert composer.table(job, "train")["dataset"]["root"] == str(Path("a,b").resolve())

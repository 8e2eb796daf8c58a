"""Splits are stratified, complete, and depend on nothing but split_seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from imgcls.data.datasets.digits import digits
from imgcls.data.source import Images, Indices, Source
from imgcls.data.splits import SplitOptions, Splits, split, stratified
from imgcls.errors import DataError

DEFAULTS: dict[str, Any] = {
    "image_size": None, "channels": None, "val_fraction": 0.1, "test_fraction": 0.2, "split_seed": 0, "classes": None,
    "limit": None, "test_limit": None, "fit": "crop", "crop_share": None, "background": "white", "depth": "auto",
    "exclude": None, "relabel": None, "positive": None, "folds": None, "fold": None,
}  # fmt: skip


def options(**changed: Any) -> SplitOptions:
    return SplitOptions(**(DEFAULTS | changed))


def images(labels: list[int] | Indices, first: int = 0) -> Images:
    count = len(labels)
    return Images(labels, pixels=np.zeros((count, 2, 2), np.uint8), ids=np.arange(first, first + count))


def source(train: int, val: int = 0, test: int = 0, classes: int = 4) -> Source:
    def part(count: int, first: int) -> Images | None:
        return images(np.arange(count) % classes, first) if count else None

    made = part(train, 0)
    assert made is not None
    return Source(tuple("abcdefgh"[:classes]), made, part(val, 1000), part(test, 2000))


def sizes(splits: Splits) -> tuple[int, int | None, int]:
    return len(splits.train), None if splits.val is None else len(splits.val), len(splits.test)


@pytest.mark.parametrize("seed", range(30))
def test_a_sample_keeps_each_classs_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(rng.integers(2, 12), size=int(rng.integers(20, 400)), p=None).astype(np.int64)
    count = int(rng.integers(1, len(labels)))
    rest, sample = stratified(labels, count, seed)
    assert len(sample) == count
    assert np.array_equal(np.sort(np.concatenate([rest, sample])), np.arange(len(labels)))
    for name in np.unique(labels):
        exact = (labels == name).sum() * count / len(labels)
        assert abs((labels[sample] == name).sum() - exact) < 1  # the quota rule: largest remainder


def test_one_image_of_each_class_is_kept_on_request() -> None:
    labels = np.array([0] * 10 + [1] + [2] * 2)
    rest, sample = stratified(labels, 12, 0, keep_one=True)
    assert set(labels[rest]) == {0, 1, 2}
    assert len(sample) == 10  # 9 + 0 + 1: no more can be had
    assert len(stratified(labels, 12, 0)[1]) == 12


def test_a_sample_is_determined_by_its_seed_and_key() -> None:
    labels = np.arange(200) % 5
    first = stratified(labels, 50, 3, "test")[1]
    assert np.array_equal(first, stratified(labels, 50, 3, "test")[1])
    assert not np.array_equal(first, stratified(labels, 50, 4, "test")[1])
    assert not np.array_equal(first, stratified(labels, 50, 3, "val")[1])


@pytest.mark.parametrize(
    ("given", "expected", "how"),
    [
        ((100, 0, 0), (72, 8, 20), ("test: a stratified 20% of all", "val: a stratified 10% of train")),
        ((100, 0, 30), (90, 10, 30), ("val: a stratified 10% of train",)),
        ((100, 40, 0), (90, 10, 40), ("test: its val split", "val: a stratified 10% of train")),
        ((100, 40, 30), (100, 40, 30), ()),
    ],
)
def test_missing_splits_are_cut(
    given: tuple[int, int, int], expected: tuple[int, int, int], how: tuple[str, ...]
) -> None:
    splits = split(source(*given), options())
    assert sizes(splits) == expected
    assert splits.how == how
    parts = [splits.train, splits.test] + ([splits.val] if splits.val else [])
    ids = np.concatenate([part.ids for part in parts])
    assert len(set(ids.tolist())) == sum(given)  # every image in exactly one part
    for part in parts:
        assert np.array_equal(part.labels, part.ids % 1000 % 4)


def test_its_own_test_set_is_left_as_it_is() -> None:
    given = source(100, 0, 30)
    assert split(given, options()).test is given.test


def test_a_limit_is_exact_and_taken_before_val() -> None:
    splits = split(source(100, 0, 30), options(limit=50, test_limit=7))
    assert sizes(splits) == (45, 5, 7)
    assert sizes(split(source(100, 0, 30), options(limit=99, val_fraction=0.0))) == (99, None, 30)
    assert sizes(split(source(100, 0, 30), options(limit=1000, test_limit=1000))) == (90, 10, 30)


def test_the_test_set_does_not_depend_on_the_other_options() -> None:
    whole = split(source(200), options())
    other = split(source(200), options(limit=60, val_fraction=0.3))
    assert np.array_equal(whole.test.ids, other.test.ids)
    assert not np.array_equal(whole.test.ids, split(source(200), options(split_seed=1)).test.ids)


def test_there_is_no_val_if_it_is_unwanted_or_too_small() -> None:
    assert split(source(100, 0, 30), options(val_fraction=0.0)).val is None
    splits = split(source(4, 0, 4), options())
    assert splits.val is None
    assert splits.how[-1] == "no val: too few images"


def test_a_class_of_one_image_stays_in_train() -> None:
    rare = Source(("a", "b"), images([0] * 50 + [1]))
    splits = split(rare, options())
    assert splits.val is not None
    assert 1 in splits.train.labels
    assert 1 not in splits.test.labels
    assert 1 not in splits.val.labels


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DataError, match="too few images to split"):
        split(Source(("a", "b"), images([0, 1])), options())


def test_the_splits_of_digits_never_change() -> None:
    splits = split(digits(), options())
    assert sizes(splits) == (1294, 144, 359)
    assert splits.val is not None
    counts = np.bincount(splits.test.labels)
    assert (counts.min(), counts.max()) == (35, 37)


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dataset\.channels must be 1 \(gray\) or 3 \(RGB\), got 2"):
        options(channels=2)


def test_a_source_checks_its_splits() -> None:
    with pytest.raises(DataError, match=r"train: labels from 0 to 3, but 2 classes \(0 to 1\)"):
        Source(("a", "b"), images([0, 3]))
    with pytest.raises(DataError, match="the val split of the data set has no images"):
        Source(("a", "b"), images([0, 1]), images([]))
    with pytest.raises(DataError, match="2 images but labels of shape"):
        Images([0], paths=["a", "b"])
    with pytest.raises(DataError, match="either pixels or paths"):
        Images([0])
    with pytest.raises(DataError, match="pixels must be uint8"):
        Images([0], pixels=np.zeros((1, 2, 2), np.float32))  # type: ignore[arg-type]


def test_splits_share_their_pixels() -> None:
    whole = np.arange(400, dtype=np.uint8).reshape(100, 2, 2)
    given = Source(("a", "b"), Images(np.arange(100) % 2, pixels=whole))
    splits = split(given, options())
    assert splits.val is not None
    for part in (splits.train, splits.val, splits.test):
        assert part.whole is not None
        assert part.pixels is not None
        assert np.shares_memory(part.whole, whole)
        assert np.array_equal(part.pixels[..., 0], whole[part.ids])
        assert np.array_equal(part.labels, part.ids % 2)


def test_splits_of_files_keep_their_names() -> None:
    given = Images([0, 1, 2], paths=["x/a", "x/b", "x/c"], ids=["a", "b", "c"])
    part = given.take(np.array([2, 0])).take(np.array([1, 0]))
    assert (part.paths, part.ids.tolist(), part.labels.tolist()) == (("x/a", "x/c"), ["a", "c"], [0, 2])
    assert Images([0], paths=["x/a"]).ids.tolist() == ["x/a"]
    assert part.relabel([5, 4, 3]).labels.tolist() == [5, 3]
    assert part.ids.dtype.kind == "U"  # no objects: they would have to be pickled


def test_relabeling_uses_the_new_labels() -> None:
    assert images([0, 1, 2, 1]).relabel([2, 0, 1]).labels.tolist() == [2, 0, 1, 0]

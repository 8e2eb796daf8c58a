"""Groups stay in one part and folds test each image once, with even shares of the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgcls.config.options import common_keys, option_node
from imgcls.data.datamodule import cut, data_spec, load_source
from imgcls.data.datasets.digits import digits
from imgcls.data.grouped_cuts import folds_of, taken, units_of
from imgcls.data.grouping import grouped_by_path
from imgcls.data.source import Images, Indices, Source, all_images, pooled
from imgcls.data.splits import Splits, split
from imgcls.errors import ConfigError, DataError
from tests.conftest import imagefolder
from tests.data.datasets.tables.test_image_table import pictures, read, table
from tests.data.datasets.tables.test_tables import COLORS, PATHS, finding, rows
from tests.data.test_splits import options
from tests.test_cuts import folders, picture


def drawn(seed: int) -> tuple[Indices, Indices]:
    """Labels and groups of random sizes; with an even seed groups hold several classes."""
    rng = np.random.default_rng(seed)
    count, classes = int(rng.integers(30, 150)), int(rng.integers(2, 6))
    sizes = np.minimum(rng.geometric(0.5, count), 3)  # of a class there is more in each fold
    units = np.repeat(np.arange(count), sizes)
    labels = np.repeat(rng.integers(0, classes, count), sizes) if seed % 2 else rng.integers(0, classes, len(units))
    order = rng.permutation(len(units))
    return labels[order].astype(np.int64), units[order]


@pytest.mark.parametrize("seed", range(20))
def test_folds_are_even_and_groups_whole(seed: int) -> None:
    labels, units = drawn(seed)
    folds = 2 + seed % 6
    found = folds_of(labels, units, folds, seed)
    assert {*found.tolist()} == set(range(folds))
    assert len({*zip(units.tolist(), found.tolist(), strict=True)}) == units.max() + 1
    for label in np.unique(labels):
        counts = np.bincount(found[labels == label], minlength=folds)
        assert np.abs(counts - counts.mean()).max() <= 1


@pytest.mark.parametrize("seed", range(20))
def test_a_part_has_its_fraction_of_each_class_in_whole_groups(seed: int) -> None:
    labels, units = drawn(seed)
    rows = taken(labels, units, 0.2, seed, "test")
    rest = np.setdiff1d(np.arange(len(labels)), rows)
    assert not {*units[rows].tolist()} & {*units[rest].tolist()}
    for label in np.unique(labels):
        assert abs((labels[rows] == label).sum() - 0.2 * (labels == label).sum()) <= 1


def test_large_groups_are_in_both_parts() -> None:
    """Not only single images are tested, which would be another kind of patients."""
    labels = np.zeros(200, np.int64)
    units = np.concatenate([np.repeat(np.arange(20), 5), np.arange(20, 120)])
    rows = taken(labels, units, 0.2, 0, "test")
    assert (np.bincount(units)[np.unique(units[rows])] == 5).sum() == 4


def test_the_cut_is_this_one() -> None:
    """Runs depend on it: it must never change but with splits.RULE."""
    labels, units = drawn(2)
    assert taken(labels, units, 0.1, 0, "val")[:8].tolist() == [0, 3, 26, 32, 44, 46, 56, 61]
    assert "".join(map(str, folds_of(labels, units, 5, 0)[:40])) == "1401201113413103340043344344111344222240"


def test_many_images_of_no_group_are_dealt_out_evenly() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 5000)
    found = folds_of(labels, np.arange(5000), 7, 0)
    assert np.ptp(np.bincount(found)) <= 1
    assert max(np.ptp(np.bincount(found[labels == label])) for label in range(7)) <= 1


def test_a_class_of_one_group_stays_in_train_and_a_part_is_never_empty() -> None:
    labels, units = np.array([0] * 10 + [1] * 30 + [2] * 30), np.repeat([0, 1, 2, 3, 4, 5, 6], 10)
    assert {*labels[taken(labels, units, 0.2, 0, "test")].tolist()} <= {1, 2}
    assert np.bincount(units[taken(labels, units, 0.01, 0, "test")]).max() == 10  # of groups that are all too large
    assert len(taken(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), 0.5, 0, "test")) == 0


def test_groups_that_share_a_copy_are_one() -> None:
    names = ("a", "a", "b", "b", "", "", "c")
    assert units_of(names, None, 7).tolist() == [0, 0, 1, 1, 2, 3, 4]
    joined = units_of(names, np.array([0, 1, 1, 3, 4, 4, 6]), 7)
    assert joined[0] == joined[3]
    assert joined[4] == joined[5]
    assert len({*joined.tolist()}) == 3
    assert units_of(None, np.array([5, 7, 5]), 3).tolist() == [0, 1, 0]


# --- the splits of a data set ----------------------------------------------------------------------------------------


def patients(count: int = 12, each: int = 5, classes: int = 2) -> Images:
    """Pixels of patients, each of one class."""
    names = [f"p{i}" for i in range(count) for _ in range(each)]
    labels = [i % classes for i in range(count) for _ in range(each)]
    return Images(labels, pixels=np.zeros((count * each, 2, 2), np.uint8), groups=names)


def groups_in(splits: Splits) -> list[set[str]]:
    return [{*(part.groups or ())} for part in splits.parts.values() if part is not None]


@pytest.mark.parametrize("keys", [{}, {"folds": 4, "fold": 1}, {"limit": 30}])
def test_no_group_is_in_two_parts(keys: dict[str, Any]) -> None:
    for seed in range(5):
        splits = split(Source(("a", "b"), patients()), options(split_seed=seed, **keys))
        train, val, test = groups_in(splits)
        assert not (train & val | train & test | val & test)
        assert train
        assert val
        assert test


def test_the_header_says_how_many_groups_are_in_a_part() -> None:
    how = split(Source(("a", "b"), patients()), options()).how
    assert how[0] == "test: a stratified 17% of all, 2 of 12 groups (dataset.group)"
    how = split(Source(("a", "b"), patients()), options(folds=4, fold=3)).how
    assert how[0] == "test: fold 3 of 0 to 3, stratified, 3 of 12 groups (dataset.group)"


def test_each_image_is_tested_once_over_the_folds() -> None:
    source = digits()
    tested = [split(source, options(folds=5, fold=i)).test.ids for i in range(5)]
    assert sorted(np.concatenate(tested).tolist()) == list(range(1797))
    assert split(source, options(folds=5, fold=0)).how[0] == "test: fold 0 of 0 to 4, stratified"


def test_folds_are_cut_from_all_parts_of_a_data_set_which_is_said() -> None:
    brought = Source(("a", "b"), patients(8), test=patients(4), warnings=("1 file is in both train and test: x",))
    whole = pooled(brought)
    assert whole.test is None
    assert len(whole.train) == 60
    assert whole.train.groups == patients(8).groups + patients(4).groups  # type: ignore[operator]
    assert "cut from all images; the data set's own parts (40 train, 20 test)" in whole.notes[0]
    assert not whole.warnings
    spec = data_spec({**common_keys("dataset"), **option_node("dataset", "digits"), "folds": 5, "fold": 0})
    assert load_source(spec).test is None
    alone = Source(("a", "b"), patients(8))
    assert pooled(alone) is alone


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"folds": 5},
            "dataset.folds=5: which of them is the test? dataset.fold=0 to 4, or -m 'dataset.fold=range(0,5)'",
        ),
        ({"fold": 0}, "dataset.fold=0: of how many? Add dataset.folds=5"),
        ({"folds": 5, "fold": 5}, "dataset.fold=5: the 5 folds have the numbers 0 to 4"),
        ({"folds": 13, "fold": 0}, "there are only 12 groups (dataset.group); dataset.folds=12 is the most"),
    ],
)
def test_folds_that_cannot_be_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, ValueError)) as caught:
        split(Source(("a", "b"), patients()), options(**keys))
    assert words in str(caught.value)


def test_too_few_images_for_the_folds() -> None:
    with pytest.raises(ConfigError, match=r"there are only 4 different images; dataset.folds=4 is the most$"):
        split(Source(("a", "b"), Images([0, 1, 0, 1], pixels=np.zeros((4, 2, 2), np.uint8))), options(folds=5, fold=0))


def test_groups_that_cannot_be_cut_are_refused_and_uneven_ones_said() -> None:
    with pytest.raises(
        DataError, match=r"too few groups to split: the test needs one of the 2 .* a class would have no"
    ):
        split(Source(("a", "b"), patients(2)), options())
    names = ["big"] * 50 + ["x"] * 5 + ["y"] * 45
    images = Images([0, 1] * 50, pixels=np.zeros((100, 2, 2), np.uint8), groups=names)
    spec = data_spec({**common_keys("dataset"), **option_node("dataset", "digits")})
    splits, found = cut(Source(("a", "b"), images), spec)
    assert len(splits.test) == 5
    assert any("test has 5 images, 5% in place of 20%, as groups stay whole: big has 50" in one.text for one in found)


def test_a_class_that_is_all_in_the_fold_is_said() -> None:
    images = patients(10, 4)
    images.labels = images.labels.copy()
    images.labels[:4] = 2
    spec = data_spec({**common_keys("dataset"), **option_node("dataset", "digits"), "folds": 5, "fold": 0})
    said = []
    for fold in range(5):
        options_of = data_spec({**spec.source.node, **vars(spec.options), "fold": fold})
        _, found = cut(Source(("a", "b", "c"), images), options_of)
        said += [one.text for one in found if "so it is not learned here: c" in one.text]
    assert len(said) == 1


def test_groups_follow_their_images() -> None:
    images = patients(3, 2)
    assert images.take(np.array([5, 0])).groups == ("p2", "p0")
    assert all_images(Source(("a", "b"), images, test=patients(1))).groups == (*images.groups, *["p0"] * 5)  # type: ignore[misc]
    with pytest.raises(DataError, match="2 images but 1 groups"):
        Images([0, 1], pixels=np.zeros((2, 2, 2), np.uint8), groups=["a"])


# --- dataset.group ---------------------------------------------------------------------------------------------------

OWNERS = [f"p{i // 3}" for i in range(24)]


def owned(**keys: Any) -> Source:
    pictures()
    return read(table(rows(PATHS, COLORS, OWNERS, header="path,label,patient id\n"), "pictures/l.csv"), **keys)


@pytest.mark.parametrize("name", ["patient id", "Patient_ID", 2, "2"])
def test_a_column_is_the_group(name: str | int) -> None:
    source = owned(group=name)
    assert source.train.groups == tuple(OWNERS)
    assert "groups   8 by 'patient id', 3 images each; a group stays in one part" in source.notes
    assert not source.findings  # it is used now
    assert not any("not used" in note for note in source.notes)


def test_a_column_that_is_not_used_is_pointed_at_with_what_to_type() -> None:
    assert finding(owned(), "id_column").endswith("to keep the pictures of each together: dataset.group='patient id'")


def test_a_pattern_on_the_path_is_the_group() -> None:
    source = owned(group=r"(\d)\.png")
    assert source.train.groups[0] == "0"  # type: ignore[index]
    assert {*(source.train.groups or ())} == set("0123456789")
    folders("photos", [4, 4])
    source = imagefolder(root="photos", group=r"(\d)\.png|x")
    assert source.train.groups == ("0", "1", "2", "3") * 2
    assert imagefolder(root="photos", group=r"\d").train.groups == ("0", "1", "2", "3") * 2  # the whole match


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("patient", "no column 'patient' (dataset.group); it has path, label, patient id; did you mean 'patient id'?"),
        ("7", "no column '7' (dataset.group)"),
        ("(p", "dataset.group: '(p' is no regular expression (missing ), unterminated subpattern at position 0)"),
        ("(x9)", "dataset.group: '(x9)' matches none of the paths, which look like 'red0.png'; the columns are path, "),
        ("label", "dataset.group=label is the column of the label; name another one"),
        ("path", "dataset.group=path is the column of the path"),
        ("^(red|blue)", "the groups by '^(red|blue)' in the path are the classes (blue, red)"),
        (r"(\.png)", "all images are of one group by '(\\.png)' in the path (.png), so they cannot be in two parts"),
    ],
)
def test_groups_that_cannot_be_are_refused_with_one_line(group: str, words: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        owned(group=group)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_pattern_leaves_out_is_said() -> None:
    source = owned(group=r"red(\d)")
    assert "12 of 24 images are in no group, so each stays alone: blue0.png, blue1.png" in finding(source, "group")
    each = owned(group=r".*(?=\.png)")
    assert "each of the 24 groups by '.*(?=\\.png)' in the path has one image" in finding(each, "group")


def test_a_group_column_is_not_taken_for_the_label() -> None:
    pictures()
    text = rows(PATHS, OWNERS, COLORS, header="path,who,what\n")
    assert read(table(text, "pictures/l.csv"), group="who").classes == ("blue", "red")


def test_groups_in_two_parts_of_the_data_sets_own_are_warned_of() -> None:
    pictures()
    part = ["test" if i % 3 == 0 else "train" for i in range(24)]
    where = table(rows(PATHS, COLORS, OWNERS, part, header="path,label,who,split\n"), "pictures/l.csv")
    said = finding(read(where, group="who"), "leak")
    assert "8 of the 8 groups of test are in train too, as the data set's own parts have it: p0, p1" in said
    assert "dataset.split=none" in said
    whole = read(where, group="who", split="none")
    assert not [one for one in whole.findings if one.kind == "leak"]


def test_a_path_twice_in_two_groups_is_refused() -> None:
    pictures()
    where = table("path,label,who\nred0.png,red,a\nred0.png,red,b\nblue0.png,blue,c\n", "pictures/l.csv")
    assert len(read(where).train) == 2
    with pytest.raises(DataError, match="in line 2 and in line 3 with another label, split or group"):
        read(where, group="who")


def test_a_pattern_in_a_folder_with_a_table_names_the_table() -> None:
    picture("photos/1.png", 1)
    picture("photos/2.png", 2)
    Path("photos/metadata.csv").write_text("file_name,label,who\n1.png,a,x\n2.png,b,y\n")
    with pytest.raises(ConfigError, match=r"for a column of the table, type dataset=\./photos/metadata\.csv"):
        imagefolder(root="photos", group="who")


def test_untrained_parts_have_groups_too() -> None:
    folders("photos", [4, 4])
    source = grouped_by_path(imagefolder(root="photos"), r"(\d)\.png")
    assert source.untrained == {}

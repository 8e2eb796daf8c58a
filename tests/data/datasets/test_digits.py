"""The digits are scikit-learn's, read without importing it."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from imgcls.data.datasets.digits import digits


def test_digits_are_scikit_learns_scaled_to_bytes() -> None:
    source, theirs = digits(), load_digits()
    assert source.train.pixels is not None
    assert np.array_equal(np.rint(source.train.pixels[..., 0] * (16 / 255)), theirs.images)
    assert source.train.pixels.max() == 255
    assert np.array_equal(source.train.labels, theirs.target)


def test_digits_are_never_mirrored_and_not_augmented_by_default() -> None:
    source = digits()
    assert (source.mirror, source.augment, source.test, source.val) == (False, "none", None, None)

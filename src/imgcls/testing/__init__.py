"""Conformance tests for parts of your own: each runs a part through everything that imgcls expects of it.

    from imgcls.testing import check_model
    from my_nets import scaled

    check_model(scaled, width=128)

Every check takes the function (or class) and its parameters, as the command line does, and returns nothing if all is
well. It raises AssertionError, in one sentence, for a part that does not behave as imgcls expects; and ConfigError or
DataError for what the command line refuses too: an unknown or missing parameter, a value out of range, logits of the
wrong shape, missing data. imgcls's own parts pass the same checks.
"""

from imgcls.testing.augment import check_augment
from imgcls.testing.datasets import check_dataset
from imgcls.testing.losses import check_loss
from imgcls.testing.models import check_model
from imgcls.testing.optimizers import check_optimizer

__all__ = ["check_augment", "check_dataset", "check_loss", "check_model", "check_optimizer"]

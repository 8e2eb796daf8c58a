"""OPTIMIZERS and SCHEDULERS: the tables behind ``optimizer=`` and ``scheduler=``."""

from imgcls.optim.optimizers import OPTIMIZERS
from imgcls.optim.schedules import SCHEDULERS

__all__ = ["OPTIMIZERS", "SCHEDULERS"]

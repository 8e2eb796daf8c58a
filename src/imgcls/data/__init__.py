"""DATASETS: name -> function (*, parameters) -> Source.

To add one: write a function that returns a Source, add a line here, and conf/dataset/NAME.yaml with its parameters. The
function raises DataError if the data is missing or damaged, ValueError for a parameter that it cannot use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imgcls.data.datasets.cifar import cifar10, cifar100
from imgcls.data.datasets.digits import digits
from imgcls.data.datasets.folders.reader import imagefolder
from imgcls.data.datasets.mnist import fashion_mnist, mnist
from imgcls.data.datasets.tables.image_table import imagelist
from imgcls.data.datasets.torchvision import TORCHVISION_DATASETS
from imgcls.data.source import Images, Source

DATASETS: dict[str, Callable[..., Any]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagefolder": imagefolder,
    "imagelist": imagelist,
    **TORCHVISION_DATASETS,
}

__all__ = ["DATASETS", "Images", "Source"]

"""torchvision's data sets and transforms, as in every PyTorch tutorial."""

from __future__ import annotations

from shared import DEVIATIONS, MEANS, Job
from torch.utils.data import Dataset, Subset
from torchvision import datasets, transforms


class _AnyCIFAR10(datasets.CIFAR10):
    """torchvision's CIFAR10 without its checksums, for synthetic files in the same format."""

    train_list = [[name, None] for name, _ in datasets.CIFAR10.train_list]  # noqa: RUF012
    test_list = [[name, None] for name, _ in datasets.CIFAR10.test_list]  # noqa: RUF012
    meta = {**datasets.CIFAR10.meta, "md5": None}  # noqa: RUF012


def dataset(job: Job, part: str) -> Dataset:
    """The train or test split with imgcls's default augmentation: none for MNIST, crop + flip for CIFAR-10."""
    is_train = part == "train"
    steps = [transforms.ToTensor(), transforms.Normalize(MEANS[job.dataset], DEVIATIONS[job.dataset])]
    if job.dataset == "cifar10" and is_train:
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *steps]
    kind = datasets.MNIST if job.dataset == "mnist" else _AnyCIFAR10
    whole = kind(job.data, train=is_train, transform=transforms.Compose(steps))
    limit = job.limit if is_train else job.test_limit
    return whole if limit is None else Subset(whole, range(limit))

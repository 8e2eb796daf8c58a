"""A loop as torchvision's references/classification/train.py is, without what needs several processes.

Files are decoded by ImageFolder in worker processes; random resized crop and flip; SGD with momentum; cosine schedule.
Prints one line of JSON: accuracy on the test folder after the last epoch, epochs done, seconds.

    python benchmarks/contenders/reference.py DATA --model resnet18 --size 96 --epochs 10
    python benchmarks/contenders/reference.py DATA --model timm/NAME --weights FILE --epochs 5 --lr 0.01

DATA: a folder with train/CLASS and test/CLASS.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def make(args: argparse.Namespace, classes: int) -> nn.Module:
    """The net, with its weights but for the last layer."""
    if args.model.startswith("timm/"):
        import timm

        model = timm.create_model(args.model.removeprefix("timm/"), num_classes=classes)
    else:
        model = torchvision.models.get_model(args.model, num_classes=classes)
    if args.weights:
        state = load_file(args.weights)
        own = model.state_dict()
        model.load_state_dict({name: one for name, one in state.items() if own[name].shape == one.shape}, strict=False)
    return model


def loaders(args: argparse.Namespace) -> tuple[DataLoader, DataLoader]:
    """Training and test images."""
    mean, std = (HALF, HALF) if "lite0" in args.model else (MEAN, STD)
    last = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    augment = [transforms.RandomResizedCrop(args.size, scale=tuple(args.scale)), transforms.RandomHorizontalFlip()]
    center = [transforms.Resize(round(args.size / 0.875)), transforms.CenterCrop(args.size)]
    parts = [
        torchvision.datasets.ImageFolder(Path(args.data, part), transforms.Compose([*steps, *last]))
        for part, steps in (("train", augment), ("test", center))
    ]
    common = {"num_workers": args.workers, "persistent_workers": args.workers > 0}
    return (
        DataLoader(parts[0], args.batch, shuffle=True, **common),
        DataLoader(parts[1], 128, num_workers=args.workers),
    )


def accuracy(model: nn.Module, loader: DataLoader) -> float:
    """The share of right answers."""
    model.eval()
    with torch.inference_mode():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in loader)
    return right / len(loader.dataset)


def main() -> None:
    """Train and test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--weights")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--scale", type=float, nargs=2, default=(0.08, 1.0), help="area of the random resized crop")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--optimizer", default="sgd", choices=("sgd", "adamw"))
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    started = time.perf_counter()
    train, test = loaders(args)
    model = make(args, len(train.dataset.classes))
    kind = torch.optim.AdamW if args.optimizer == "adamw" else torch.optim.SGD
    more = {} if args.optimizer == "adamw" else {"momentum": 0.9}
    optimizer = kind(model.parameters(), args.lr, weight_decay=args.weight_decay, **more)
    steps = args.epochs * len(train)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
    loss = nn.CrossEntropyLoss()
    for _ in range(args.epochs):
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            loss(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - started
    print(json.dumps({"accuracy": accuracy(model, test), "seconds": seconds, **vars(args)}))


if __name__ == "__main__":
    main()

"""Photos: how fast they come, from files and from memory, beside torchvision's and timm's loaders; and which
augmentation suits them.

- *speed*: one epoch of random resized crops and flips at 224 pixels, from JPEG files to normalized batches, each in a
  process of its own with as many worker processes as the others; the start of the workers is included. *store*: a
  second epoch from imgcls's resident loader, as many images. timm is left out where it is not installed.
- *keep*: the size at which whole pictures are kept, as a multiple of the image size.
- *augment*, *auto*: accuracy of the defaults to choose from, several seeds, on folders or tables of yours (--sets PATH
  ...); auto: nets, image sizes and epochs for a CPU, beside the seconds from the command to its end.

The pictures are photographs from scikit-learn's and scikit-image's wheels (whichever is installed), cut at random,
scaled, and given noise until the file has a camera's size.

    python benchmarks/photos.py
    python benchmarks/photos.py --tables augment --sets ./photos --seeds 5
    python benchmarks/photos.py --tables auto --sets ./photos --seeds 3
    python benchmarks/photos.py --quick
"""

from __future__ import annotations

import importlib.util
import json
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common import (
    Arguments,
    environment,
    imgcls,
    machine,
    machine_lines,
    middle,
    paired,
    read_json,
    say,
    spend,
    table,
    write,
    write_json,
)

BATCH, SIZE, WORKERS = 64, 224, 2
CONTENDERS = ("torchvision", "timm", "imgcls", "store")
SETS = {  # name -> width, height, quality, noise (levels), files
    "500x375, quality 75": (500, 375, 75, 4, 1500),
    "500x375, quality 90": (500, 375, 90, 6, 1500),
    "4000x3000, quality 90": (4000, 3000, 90, 2.6, 64),
    "4000x3000, quality 95": (4000, 3000, 95, 3.6, 64),
}
KEEPS = (1.15, 1.3, 1.5, 1.67, 1.75)
TABLES = ("speed", "keep", "augment", "auto")
AUGMENTS = {
    "none": ["augment=none"],
    "standard (shift + flip)": ["augment=standard"],
    "photo, area [0.08,1]": ["augment=photo", "augment.area=[0.08,1]"],
    "photo, area [0.35,1]": ["augment=photo", "augment.area=[0.35,1]"],
    "photo, area [0.6,1]": ["augment=photo", "augment.area=[0.6,1]"],
}
CONVNET = ["model=convnet", "model.hidden=[]", "model.batch_norm=true"]
DEEP = [*CONVNET, "model.widths=[16,32,64,128]"]
WIDE = [*CONVNET, "model.widths=[32,64,128,256]"]
CHOICES = {  # of about the same cost
    "two convolutions, 96 px": ["model=convnet", "dataset.image_size=96", "epochs=42"],
    "four, batch norm, 96 px": [*DEEP, "dataset.image_size=96", "epochs=20"],
    "four, batch norm, 128 px": [*DEEP, "dataset.image_size=128", "epochs=12"],
    "four, twice as wide, 72 px": [*WIDE, "dataset.image_size=72", "epochs=12"],
    "resnet18, 72 px": ["model=resnet18", "dataset.image_size=72", "epochs=8"],
}


# --- pictures --------------------------------------------------------------------------------------------------------


def photographs() -> list[Image.Image]:
    """The photographs that are installed with scikit-learn and scikit-image."""
    found = []
    for package, names in (
        ("sklearn", ("datasets/images/china.jpg", "datasets/images/flower.jpg")),
        ("skimage", tuple(f"data/{name}" for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"))),
    ):
        spec = importlib.util.find_spec(package)
        for name in names if spec and spec.submodule_search_locations else ():
            path = Path(spec.submodule_search_locations[0]) / name
            found += [Image.open(path).convert("RGB")] if path.is_file() else []
    if not found:
        raise SystemExit("no photographs: pip install scikit-learn scikit-image")
    return found


def write_one(number: int, folder: str, kind: tuple[int, int, int, float, int]) -> int:
    """Write a JPEG and return its size in bytes."""
    width, height, quality, noise, _ = kind
    rng, photos = random.Random(number), photographs()
    photo = photos[number % len(photos)]
    share = rng.uniform(0.5, 1)
    wide = min(photo.width, photo.height * width / height) * share
    tall = wide * height / width
    left, top = rng.uniform(0, photo.width - wide), rng.uniform(0, photo.height - tall)
    image = photo.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + wide, top + tall))
    grain = np.random.default_rng(number).normal(0, noise, (height, width, 1)).astype(np.float32)
    pixels = (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)
    path = Path(folder, f"class{number % 2}", f"{number:05}.jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=quality)
    return path.stat().st_size


def write_set(folder: str, kind: tuple[int, int, int, float, int]) -> float:
    """Write a folder of JPEGs; returns their mean size in bytes."""
    with ProcessPoolExecutor(WORKERS) as pool:
        return statistics.mean(pool.map(partial(write_one, folder=folder, kind=kind), range(kind[4]), chunksize=8))


# --- one contender, in a process of its own --------------------------------------------------------------------------


def serve(name: str, folder: str, workers: int) -> dict[str, float]:
    """Images per second and CPU milliseconds an image of one epoch."""
    make = {"torchvision": torchvision_loader, "timm": timm_loader}.get(name)
    loader = make(folder, workers) if make else imgcls_loader(folder, workers, is_resident=name == "store")
    if name == "store":
        list_once(loader)
    cpu, started = cpu_seconds(), time.perf_counter()
    count = list_once(loader)
    seconds = time.perf_counter() - started
    return {"rate": count / seconds, "cpu_ms": (cpu_seconds() - cpu) / count * 1e3}


def list_once(loader: Any) -> int:
    """Go through it; returns the number of images."""
    return sum(len(images) for images, _ in loader())


def cpu_seconds() -> float:
    """Of this process and of the children it has waited for."""
    import resource

    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def torchvision_loader(folder: str, workers: int) -> Any:
    """ImageFolder and the transforms of torchvision's references."""
    import torch
    from torchvision import datasets, transforms

    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    data = datasets.ImageFolder(folder, transforms.Compose(steps))
    return torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=workers).__iter__


def timm_loader(folder: str, workers: int) -> Any:
    """timm's create_loader with its training transforms, on the CPU."""
    import torch
    from timm.data import create_dataset, create_loader

    data = create_dataset("", folder)
    loader = create_loader(
        data, SIZE, BATCH, is_training=True, num_workers=workers, use_prefetcher=False, device=torch.device("cpu"),
        color_jitter=0.0, persistent_workers=False,
    )  # fmt: skip
    return loader.__iter__


def imgcls_loader(folder: str, workers: int, *, is_resident: bool) -> Any:
    """imgcls's Loader, as `imgcls train augment=photo` sets it up."""
    import torch

    from imgcls.data.datamodule import cropped_view
    from imgcls.data.fetchers import make_fetcher
    from imgcls.data.loader import BatchPlan, Loader
    from imgcls.data.pixels.preprocessing import Preprocessing
    from imgcls.data.source import Images
    from imgcls.data.transforms.augment import AUGMENTS
    from imgcls.runtime.session import session

    session("cpu", "fp32", workers).__enter__()
    paths = sorted(str(path) for path in Path(folder).glob("*/*.jpg"))
    images, shape = Images(np.zeros(len(paths), np.int64), paths=paths), preprocessing(Preprocessing)
    augment = AUGMENTS["photo"]((SIZE, SIZE), True, **photo_keys())
    fetcher = make_fetcher(
        images, shape, torch.device("cpu"), is_resident=is_resident, workers=workers, threads=workers,
        crops=cropped_view(shape, augment.crop),
    )  # fmt: skip
    labels = torch.zeros(len(paths), dtype=torch.int64)
    normalize = shape.normalizer(torch.device("cpu"))
    return partial(Loader(fetcher, labels, augment, normalize, BatchPlan(len(paths), BATCH, seed=0)).epoch, 0)


def preprocessing(cls: Any) -> Any:
    """ImageNet's mean and standard deviation."""
    return cls(3, SIZE, SIZE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def photo_keys() -> dict[str, Any]:
    """The keys of augment=photo, with torchvision's area."""
    from imgcls.config.options import option_node

    keys = option_node("augment", "photo")
    return {key: value for key, value in keys.items() if key != "name"} | {"area": [0.08, 1.0]}


# --- tables ----------------------------------------------------------------------------------------------------------


def speed_table(args: Any) -> list[dict[str, Any]]:
    """Each contender on each set, interleaved."""
    found = []
    for name, kind in SETS.items():
        kind = (*kind[:4], max(8, kind[4] // 16)) if args.quick else kind
        with tempfile.TemporaryDirectory(prefix="imgcls-bench-photos-") as folder:
            size = write_set(folder, kind)
            for repeat in range(args.repeats):
                for contender in CONTENDERS:
                    found.append(
                        {"set": name, "bytes": size, "files": kind[4], "contender": contender, "repeat": repeat}
                    )
                    found[-1] |= measured("serve", contender, folder)
                    say(f"{name}: {contender} {found[-1]}")
    return found


def measured(*words: str) -> dict[str, Any]:
    """What this program prints in a process of its own."""
    spent = spend([sys.executable, __file__, *words], env=environment(WORKERS, tempfile.gettempdir()))
    return {"failure": spent.failure} if spent.failure else json.loads(spent.stdout.splitlines()[-1])


def speed_lines(found: list[dict[str, Any]]) -> str:
    """The table of speeds."""
    rows = []
    for name in dict.fromkeys(one["set"] for one in found):
        own = [one for one in found if one["set"] == name]
        rates = {
            contender: {one["repeat"]: one["rate"] for one in own if one["contender"] == contender and "rate" in one}
            for contender in CONTENDERS
        }
        size = f"{own[0]['bytes'] / 1e3:,.0f} kB"
        for contender, rate in rates.items():
            if not rate:
                rows.append([f"{name}, {size}: {contender}", "failed, or not installed", "-", "-", 0])
                continue
            cpu = [one["cpu_ms"] for one in own if one["contender"] == contender and "rate" in one]
            ratio = middle(paired(rate, rates["torchvision"])) if contender != "torchvision" else "1"
            rows.append(
                [f"{name}, {size}: {contender}", middle(list(rate.values()), 0), ratio, middle(cpu, 2), len(rate)]
            )
    return table(["files: loader", "images/s", "x torchvision", "CPU ms an image", "n"], rows)


def keep_table(args: Any) -> list[dict[str, Any]]:
    """Speed, memory and share of enlarged crops by the size at which pictures are kept."""
    found = []
    names = list(SETS)
    for name in (names[1], names[2]):
        kind = SETS[name]
        kind = (*kind[:4], max(8, kind[4] // 16)) if args.quick else kind
        with tempfile.TemporaryDirectory(prefix="imgcls-bench-photos-") as folder:
            write_set(folder, kind)
            for repeat in range(args.repeats):
                for keep in KEEPS:
                    found.append({"set": name, "keep": keep, "repeat": repeat} | measured("keep", folder, str(keep)))
                    say(f"{name}: {found[-1]}")
    return found


def keep(folder: str, factor: float) -> dict[str, float]:
    """One epoch from files, one from memory, with that KEEP."""
    from imgcls.data.pixels import crops

    crops.KEEP = factor
    streamed, resident = serve("imgcls", folder, WORKERS), serve("store", folder, WORKERS)
    view = crops.CroppedView(preprocessing(_preprocessing_class()).view, crops.RandomCrop((0.08, 1.0), (3 / 4, 4 / 3)))
    side = view.reduction.height
    sizes = np.broadcast_to(np.array([side, round(side * 4 / 3)], np.int32), (20_000, 2))
    boxes = view.boxes(np.random.default_rng(0).random((20_000, view.crop.draws), dtype=np.float32), sizes)
    enlarged = float((boxes[:, 2:] < SIZE).any(1).mean())
    return {
        "files": streamed["rate"],
        "store": resident["rate"],
        "kb": side * round(side * 4 / 3) * 3 / 1e3,
        "enlarged": enlarged,
    }


def _preprocessing_class() -> Any:
    from imgcls.data.pixels.preprocessing import Preprocessing

    return Preprocessing


def keep_lines(found: list[dict[str, Any]]) -> str:
    """The table of sizes to keep."""
    rows = []
    for name, factor in dict.fromkeys((one["set"], one["keep"]) for one in found):
        own = [one for one in found if (one["set"], one["keep"]) == (name, factor) and "files" in one]
        figures = [middle([one[key] for one in own], 0) for key in ("files", "store")]
        rows.append([f"{name}: {factor}", *figures, f"{own[0]['enlarged']:.0%}", f"{own[0]['kb']:,.0f}", len(own)])
    return table(
        ["files: keep", "images/s from files", "from memory", "crops enlarged", "kB a picture (4:3)", "n"], rows
    )


def accuracies(args: Any, key: str, options: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Test accuracy and seconds of each option on each set, several seeds; key: what the options are."""
    found = []
    for seed in range(args.seeds):
        for path in args.sets:
            for name, words in options.items():
                if args.only and name not in args.only:
                    continue
                with tempfile.TemporaryDirectory(prefix="imgcls-bench-photos-") as scratch:
                    common = [f"dataset={path}", f"seed={seed}", *args.words, "plots=false", "tensorboard=false"]
                    command = imgcls("train", *common, *words, f"run_dir={scratch}/run")
                    spent = spend(command, env=environment(WORKERS, scratch), cwd=scratch)
                    one: dict[str, Any] = {"set": Path(path).name, key: name, "seed": seed, "wall": spent.wall}
                    if spent.failure:
                        one["failure"] = spent.failure
                    else:
                        report = json.loads(Path(scratch, "run", "report.json").read_text(encoding="utf-8"))
                        one["accuracy"] = report["accuracy"]
                    found.append(one | {"words": common[2:-2]})
                    say(f"{found[-1]}")
    return found


def accuracy_lines(found: list[dict[str, Any]], key: str, title: str, *, is_timed: bool = False) -> str:
    """The table of accuracies; is_timed: with the median of the seconds."""
    sets = list(dict.fromkeys(one["set"] for one in found))
    rows = []
    for name in dict.fromkeys(one[key] for one in found):
        row, means = [name], []
        for data in sets:
            runs = [one for one in found if (one["set"], one[key]) == (data, name) and "accuracy" in one]
            own = [one["accuracy"] * 100 for one in runs]
            spread = f" ({statistics.stdev(own):.1f})" if len(own) > 1 else ""
            time = f", {statistics.median(one['wall'] for one in runs):.0f} s" if is_timed and own else ""
            row.append(f"{statistics.mean(own):.1f}{spread}{time}" if own else "-")
            means += [statistics.mean(own)] if own else []
        rows.append([*row, f"{statistics.mean(means):.1f}" if means else "-"])
    seeds = len({one["seed"] for one in found})
    words = " ".join(found[0]["words"]) if found else ""
    head = f"Test accuracy in percent, mean (standard deviation) over {seeds} seeds; `imgcls train {words}`."
    return f"{head}\n\n" + table([title, *sets, "mean"], rows)


MAKE = {
    "speed": speed_table,
    "keep": keep_table,
    "augment": partial(accuracies, key="augment", options=AUGMENTS),
    "auto": partial(accuracies, key="auto", options=CHOICES),
}
LINES = {
    "speed": speed_lines,
    "keep": keep_lines,
    "augment": partial(accuracy_lines, key="augment", title="augmentation"),
    "auto": partial(accuracy_lines, key="auto", title="net and size", is_timed=True),
}
TITLES = {
    "speed": "## From JPEG files, and from memory, to normalized batches of 64 at 224x224",
    "keep": "## At which size whole pictures are kept, as a multiple of the image size",
    "augment": "## Which augmentation",
    "auto": "## Which net at which size on a CPU",
}
FOOT = """
- *x torchvision*: median of the ratios within a repeat, and their range. *CPU ms*: user and system time of all
  processes.
- The files had just been written, so they are read from the file cache, not from disk.
- *crops enlarged*: of torchvision's boxes (area 0.08 to 1) in a picture kept at that size, those of which a side is
  shorter than the image.
- *signs100*: the 2,062 photos of github.com/ardamavi/Sign-Language-Digits-Dataset, ten classes. *solar*: the 2,624 gray
  pictures of github.com/zae-bayern/elpv-dataset, two classes: below 0.5, and 0.5 or more. *cifar4*: 4,000 and 2,000
  images of CIFAR-10 at four times their size as JPEG, a stand-in for photos. The training sets are cut to 1,500.
"""


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        print(json.dumps(serve(sys.argv[2], sys.argv[3], WORKERS)))
        return
    if sys.argv[1:2] == ["keep"]:
        print(json.dumps(keep(sys.argv[2], float(sys.argv[3]))))
        return
    parser = Arguments(__doc__, "photos", repeats=3, quick="a smoke test: few files, one repeat")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["speed", "keep"])
    parser.add_argument("--sets", nargs="*", default=[], help="folders or tables for --tables augment and auto")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of --tables augment and auto (default: 5)")
    parser.add_argument("--words", nargs="*", default=[], help="further words of imgcls train for these two")
    parser.add_argument("--only", nargs="*", default=[], help="only these rows of --tables augment and auto")
    args = parser.read()
    found = read_json(args.out)
    for name in args.tables:
        found_on = machine()
        found[name] = {"machine": found_on, "found": MAKE[name](args)}
        write_json(args.out, found)
    lines = ["# Photos", ""]
    for name in TABLES:
        if name in found:
            lines += [
                TITLES[name],
                "",
                LINES[name](found[name]["found"]),
                "",
                *machine_lines(found[name]["machine"]),
                "",
            ]
    write(args.out, "\n".join([*lines, FOOT.strip()]), found)


if __name__ == "__main__":
    main()

"""How cost scales: time and memory by number of images, batch size and model; and reading many image files.

- *images*, *batch*, *models*: each cell is one `imgcls train` process on CIFAR-10 or a subset of it, for two epochs
  (speed is that of the second); wall time of the whole process, peak memory.
- *files*: JPEGs in class folders, written to a temporary folder (100,000 take about 250 MB). All of them are decoded by
  imgcls's resident loader and by its streaming loader, compared with the bare decoder: plain processes, as many as
  there are workers, each opening, converting and resizing its share with Pillow. Then `imgcls train` runs on them.

- *photos*: larger JPEGs in class folders, trained on with random resized crops for two epochs, whole pictures in memory
  where they fit, else streamed.

    python benchmarks/growth.py                          # all of it: about 25 minutes
    python benchmarks/growth.py --tables files --files 20000
    python benchmarks/growth.py --quick
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import (
    HERE,
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
from synthetic import data_folder, write_folders

THREADS = WORKERS = 2
COUNTS = (1_000, 5_000, 10_000, 25_000, 50_000)
BATCHES = (32, 128, 512, 1024, 4096)
MODELS = {"lenet": 12_800, "mlp": 12_800, "resnet18": 512, "resnet34": 512, "resnet50": 256}  # images per epoch
DECODERS = {  # name -> title
    "bare": "bare decoder (open, convert, resize)",
    "bare-draft": "bare decoder, JPEG decoded at reduced scale (draft)",
    "resident": "imgcls, resident (decode_all)",
    "streamed": "imgcls, streaming (2 workers, no model)",
}
SIZES = (32, 64)  # pixels per side after resizing
PHOTOS = (1_000, 10_000, 100_000)
PHOTO_SIDES = (240, 320)  # pixels: smallest and largest side of the photos
TABLES = ("images", "batch", "models", "files", "photos")


# --- imgcls train, cell by cell --------------------------------------------------------------------------------------


def train(words: list[str], data: str) -> dict[str, Any]:
    """One `imgcls train`: time and memory of the process, speed of the last epoch."""
    with tempfile.TemporaryDirectory(prefix="imgcls-bench-growth-") as folder:
        run_dir = Path(folder, "run")
        command = imgcls("train", *words, f"run_dir={run_dir}")
        spent = spend(command, env=environment(THREADS, data), cwd=folder)
        if spent.failure is not None:
            return {"words": words, "failure": spent.failure}
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    last = {"epoch_seconds": rows[-1]["seconds"], "rate": rows[-1]["images_per_second"], "step": rows[-1]["step"]}
    say(f"{' '.join(words)}: {last['rate']:,.0f} images/s, {spent.wall:.1f} s, {spent.peak_rss_mb:,.0f} MB")
    keys = ("wall", "cpu", "peak_rss_mb", "others")
    return {"words": words, "epochs": len(rows), **{key: getattr(spent, key) for key in keys}, **last}


def cells(name: str, is_quick: bool) -> list[tuple[str, list[str]]]:
    """(first column, overrides) of each cell in a table."""
    common = ["dataset=cifar10", "epochs=2", "dataset.val_fraction=0"]
    if name == "images":
        some = COUNTS[:2] if is_quick else COUNTS
        words = [(f"{model}, {count:,} images", model, count, 128) for model in ("lenet", "mlp") for count in some]
    elif name == "batch":
        some, count = (BATCHES[1:3], 2_000) if is_quick else (BATCHES, 50_000)
        words = [(f"{model}, batch {batch}", model, count, batch) for model in ("lenet", "mlp") for batch in some]
    else:
        some = dict.fromkeys(("lenet", "mlp"), 1_280) if is_quick else MODELS
        words = [(f"{model}, {count:,} images", model, count, 128) for model, count in some.items()]
    test = ["dataset.test_limit=128"] if name == "models" else []
    return [
        (title, [*common, *test, f"model={model}", f"dataset.limit={count}", f"batch_size={batch}"])
        for title, model, count, batch in words
    ]


def train_table(name: str, data: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All cells of a table, once per repeat."""
    chosen = cells(name, args.quick)
    return [
        {"title": title, "repeat": repeat, **train(words, data)}
        for repeat in range(args.repeats)
        for title, words in chosen
    ]


def photos_table(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Each number of photos in a folder of its own, once per repeat."""
    found = []
    for count in (300,) if args.quick else PHOTOS:
        with tempfile.TemporaryDirectory(prefix="imgcls-bench-photos-") as folder:
            say(f"writing {count:,} photos")
            write_folders(Path(folder), count, classes=10, sides=PHOTO_SIDES)
            words = [f"dataset={folder}", "model=linear", "dataset.image_size=96", "augment=photo", "epochs=2"]
            for repeat in range(args.repeats):
                one = train([*words, "dataset.val_fraction=0", "dataset.test_fraction=0.01"], folder)
                found.append({"title": f"{count:,} photos", "repeat": repeat, **one, "words": words[1:]})
    return found


def train_lines(found: list[dict[str, Any]]) -> str:
    """These cells as a table."""
    rows = []
    for title in dict.fromkeys(one["title"] for one in found):
        runs = [one for one in found if one["title"] == title and "failure" not in one]
        if not runs:
            failure = next(one["failure"] for one in found if one["title"] == title)
            rows.append([title, f"failed: {failure}", *["-"] * 6])
            continue
        values = {key: [one[key] for one in runs] for key in ("epoch_seconds", "rate", "wall", "cpu", "peak_rss_mb")}
        steps = statistics.median(one["step"] / one["epochs"] / one["epoch_seconds"] for one in runs)
        digits = {"epoch_seconds": 2, "rate": 0, "wall": 1, "cpu": 1, "peak_rss_mb": 0}
        figures = [middle(values[key], places) for key, places in digits.items()]
        rows.append([title, figures[0], figures[1], f"{steps:,.1f}", *figures[2:], len(runs)])
    columns = ["cell", "epoch s", "images/s", "steps/s", "process s", "CPU s", "peak RSS MB", "n"]
    return table(columns, rows)


# --- many files ------------------------------------------------------------------------------------------------------


def files_table(args: argparse.Namespace) -> dict[str, Any]:
    """Write the files, decode them in each way in turn, train on them."""
    count = min(args.files, 2_000) if args.quick else args.files
    found: dict[str, Any] = {"files": count, "decoders": [], "train": []}
    with tempfile.TemporaryDirectory(prefix="imgcls-bench-files-") as folder:
        say(f"writing {count:,} files")
        write_folders(Path(folder), count)
        for repeat in range(args.file_repeats):
            for size in SIZES:
                for name in DECODERS:
                    found["decoders"].append({"repeat": repeat, "size": size, **decode(name, folder, size)})
        words = [f"dataset={folder}", "model=lenet", "dataset.image_size=32", "epochs=1"]
        found["first_step"] = first_step(words, folder)
        found["train"] = [train([*words, *more], folder) for more in ([], ["loader=stream"])]
        for one in found["train"]:
            one["words"] = ["dataset=FOLDER", *one["words"][1:]]
    return found


def decode(name: str, folder: str, size: int) -> dict[str, Any]:
    """One process that decodes all files in this way; it starts timing after its imports."""
    command = [sys.executable, str(HERE / "decode.py"), name, folder, str(size), str(WORKERS)]
    spent = spend(command, env=environment(THREADS, folder))
    figures = {"decoder": name, "cpu": spent.cpu, "peak_rss_mb": spent.peak_rss_mb, "others": spent.others}
    if spent.failure is not None:
        say(f"{name} {size}: FAILED {spent.failure}")
        return figures | {"failure": spent.failure}
    figures |= json.loads(spent.stdout.splitlines()[-1])
    say(f"{name} {size}: {figures['rate']:,.0f} images/s")
    return figures


def first_step(words: list[str], folder: str) -> dict[str, Any]:
    """Time from the command to its first update."""
    with tempfile.TemporaryDirectory(prefix="imgcls-bench-growth-") as scratch:
        command = [sys.executable, str(HERE / "first_step.py"), *words, f"run_dir={scratch}/run"]
        spent = spend(command, env=environment(THREADS, folder), cwd=scratch)
    return spent.figures


def files_lines(found: dict[str, Any]) -> str:
    """The results for the files: decoders, then training."""
    rows, runs = [], found["decoders"]
    for size in SIZES:
        rates = {
            name: {
                one["repeat"]: one["rate"]
                for one in runs
                if (one["decoder"], one["size"]) == (name, size) and "failure" not in one
            }
            for name in DECODERS
        }
        for name, title in DECODERS.items():
            figures = [one for one in runs if (one["decoder"], one["size"]) == (name, size)]
            if not rates[name]:
                rows.append([f"{title}, {size} px", f"failed: {figures[0]['failure']}", *["-"] * 5])
                continue
            ratios = [paired(rates[name], rates[base]) for base in ("bare", "bare-draft")]
            row = [f"{title}, {size} px", middle(list(rates[name].values()), 0)]
            row += [f"{statistics.median(one):.2f}" if one else "-" for one in ratios]
            row += [f"{statistics.median(one[key] for one in figures):,.1f}" for key in ("cpu", "peak_rss_mb")]
            rows.append([*row, len(rates[name])])
    columns = ["decoder", "images/s", "x bare", "x bare, draft", "CPU s", "peak RSS MB", "n"]
    first = found["first_step"]
    start = f"{first['wall']:.1f} s, {first['cpu']:.1f} CPU s" if first["code"] == 0 else f"failed ({first['code']})"
    lines = [table(columns, rows), "", f"- From the command to the first update, lenet at 32x32: {start}."]
    for one in found["train"]:
        words = f"- `imgcls train {' '.join(one['words'])}`: "
        if "failure" in one:
            lines.append(words + f"failed: {one['failure']}")
            continue
        speed = f"{one['rate']:,.0f} training images/s, peak RSS {one['peak_rss_mb']:,.0f} MB"
        lines.append(words + f"{one['wall']:.1f} s in total, {one['cpu']:.1f} CPU s, {speed}.")
    return "\n".join(lines)


# --- the command -----------------------------------------------------------------------------------------------------

TITLES = {
    "images": "## By number of images, CIFAR-10 with crop + flip, batch 128",
    "batch": "## By batch size, CIFAR-10 with crop + flip",
    "models": "## By model, CIFAR-10 with crop + flip, batch 128",
    "photos": "## By number of photos of 240 to 320 pixels per side, random resized crops at 96x96, linear model",
    "files": "## {files:,} JPEG files of 64 to 96 pixels per side in class folders",
}
FOOT = """
- *epoch s*, *images/s*, *steps/s*: the training part of the second epoch. *process s*: from start to exit, including
  start-up, testing, reports and plots. *peak RSS*: of the largest single process.
- The files had just been written, so they are read from the file cache, not from disk. *x bare*: median of the ratios
  within a repeat. imgcls decodes a JPEG at reduced scale if it is at least twice as large as needed, as *draft* does;
  it also center-crops images that are not square and reads each file's EXIF orientation.
- CIFAR-10 is read as a whole before a subset is taken, which sets a floor for the peak memory above.
"""


def report(found: dict[str, Any], prefix: Path) -> None:
    """results/growth.md and .json."""
    lines = ["# How cost scales", ""]
    for name in TABLES:
        if name in found:
            part = found[name]
            title = TITLES[name].format(files=part["found"]["files"]) if name == "files" else TITLES[name]
            body = files_lines(part["found"]) if name == "files" else train_lines(part["found"])
            lines += [title, "", body, "", *machine_lines(part["machine"]), ""]
    write(prefix, "\n".join([*lines, FOOT.strip()]), found)


def main() -> None:
    parser = Arguments(__doc__, "growth", repeats=1, quick="a smoke test: small, one repeat")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--files", type=int, default=100_000, help="number of files (default: 100,000)")
    parser.add_argument("--file-repeats", type=int, default=3, help="repeats of each decoder (default: 3)")
    args = parser.read()
    if args.quick:
        args.file_repeats = 1
    found = read_json(args.out)
    with data_folder({"cifar10"} if set(args.tables) - {"files", "photos"} else set()) as (data, _):
        for name in args.tables:
            found_on = machine()
            if name == "photos":
                part: Any = photos_table(args)
            else:
                part = files_table(args) if name == "files" else train_table(name, data, args)
            found[name] = {"machine": found_on, "found": part}
            write_json(args.out, found)
    report(found, args.out)


if __name__ == "__main__":
    main()

"""Every model through the command line: two updates, re-evaluation of the checkpoint, a prediction; time and memory.

Models with a stem for small images run at 32 pixels, and every torchvision model also at its own size: the smallest
that torchvision has weights for. The images are the digits that ship with scikit-learn, scaled and in color, so the
accuracies are meaningless. Evaluation must reproduce train's probabilities bit for bit, and a file must be classified.

    python benchmarks/models.py                 # every model: about an hour and a half
    python benchmarks/models.py --models vgg16 swin_t
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common import (
    Arguments,
    environment,
    imgcls,
    machine,
    machine_lines,
    say,
    spend,
    table,
    write,
    write_json,
)
from imgcls.config.torchvision_names import MODELS

SMALL = 32
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
OWN = ("linear", "mlp", "lenet", "convnet")
NO_SMALL_STEM = ("inception_v3",)
UPDATES, BATCH, TEST = 2, 2, 2
COLUMNS = ("model", "pixels", "parameters", "train s", "peak GB", "re-evaluated", "prediction")


def own_size(name: str) -> int:
    """The smallest size, in pixels, for which torchvision has weights of the model."""
    from torchvision.models import get_model_weights

    return min(int(one.transforms().crop_size[0]) for one in get_model_weights(name))


def cases(names: list[str]) -> list[tuple[str, int]]:
    """(model, pixels per side), own sizes first."""
    own = [(name, own_size(name)) for name in names if name not in OWN]
    return [*own, *((name, SMALL) for name in names if name not in NO_SMALL_STEM)]


def attempt(name: str, side: int, photo: Path, threads: int) -> dict[str, Any]:
    """Train, evaluate and predict in three processes, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="imgcls-bench-models-") as folder:
        given = {"env": environment(threads, folder), "cwd": folder, "timeout": 3600}
        words = [
            *(f"model={name}", f"dataset.image_size={side}", "dataset.channels=3", "dataset.val_fraction=0"),
            *(f"dataset.limit={UPDATES * BATCH}", f"dataset.test_limit={TEST}", f"batch_size={BATCH}", "epochs=1"),
            *("run_dir=run", f"threads={threads}", "model.pretrained=false"),
        ]
        spent = spend(imgcls("train", *words, "--json"), **given)
        found: dict[str, Any] = {"model": name, "pixels": side, "train": _figures(spent)}
        if spent.code:
            return found
        report = json.loads(spent.stdout)
        found |= {"parameters": report["parameters"], "loss": report["loss"]}
        evaluated = spend(imgcls("evaluate", "run", "output=again", "--json"), **given)
        found["evaluate"] = _figures(evaluated)
        if evaluated.code == 0:
            with (
                np.load(Path(folder, "run/predictions.npz")) as own,
                np.load(Path(folder, "again/predictions.npz")) as new,
            ):
                found["evaluated_equal"] = bool(np.array_equal(own["probabilities"], new["probabilities"]))
        predicted = spend(imgcls("predict", "run", str(photo), "--json"), **given)
        found["predict"] = _figures(predicted)
        if predicted.code == 0:
            found["probability"] = json.loads(predicted.stdout)[0]["probability"]
        return found


def _figures(spent: Any) -> dict[str, Any]:
    return spent.figures | {"failure": spent.failure}


def is_right(one: dict[str, Any]) -> bool:
    """Whether the model trained, its checkpoint reproduced the same probabilities, and a file was classified."""
    return bool(one.get("evaluated_equal")) and 0 < one.get("probability", math.nan) <= 1


def report(found: list[dict[str, Any]], found_on: dict[str, Any], prefix: Path) -> None:
    """results/models.md and .json."""
    rows = []
    for one in found:
        train = one["train"]
        again = "equal" if one.get("evaluated_equal") else one.get("evaluate", {}).get("failure") or "different"
        file = "done" if "probability" in one else one.get("predict", {}).get("failure") or "-"
        figures = [f"{train['wall']:.0f}", f"{train['peak_rss_mb'] / 1024:.1f}"]
        if train["failure"]:
            rows.append([one["model"], one["pixels"], "-", *figures, train["failure"], "-"])
        else:
            rows.append([one["model"], one["pixels"], f"{one['parameters']:,}", *figures, again, file])
    right = sum(map(is_right, found))
    lines = [
        *("# Every model", "", *machine_lines(found_on), ""),
        f"{right} of {len(found)} runs trained, gave equal probabilities when the checkpoint was re-evaluated, and",
        f"classified a file. {UPDATES} updates of {BATCH} digits, scaled, in color; AdamW; train s: wall time of the",
        "command, including about 5 s of start-up and writing checkpoints; peak GB: peak RSS of the process.",
        *("", table(COLUMNS, rows)),
    ]
    write(prefix, "\n".join(lines), {"machine": found_on, "runs": found})


def draw_photo(path: Path) -> None:
    """One of scikit-learn's digits as a file."""
    from PIL import Image
    from sklearn.datasets import load_digits

    Image.fromarray((load_digits().images[0] * 15).astype(np.uint8)).save(path)


def main() -> None:
    parser = Arguments(__doc__, "models")
    parser.add_argument("--models", nargs="+", default=[*OWN, *RESNETS, *MODELS], metavar="NAME")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.read()
    found_on, found = machine(), list[dict[str, Any]]()
    folder = Path(tempfile.mkdtemp(prefix="imgcls-bench-photo-"))
    try:
        draw_photo(folder / "digit.png")
        for name, side in cases(args.models):
            found.append(attempt(name, side, folder / "digit.png", args.threads))
            say(f"{name} at {side}: {'right' if is_right(found[-1]) else 'WRONG'}, {found[-1]['train']['wall']:.0f} s")
            write_json(args.out, {"machine": found_on, "runs": found})
    finally:
        shutil.rmtree(folder)
    report(found, found_on, args.out)


if __name__ == "__main__":
    main()

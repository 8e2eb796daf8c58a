"""How to fine-tune: test accuracy of one recipe and of others that differ from it in one thing, several seeds.

The sets are folders or tables of yours; {seed} in a path is replaced by the seed. The model needs weights for it.

    python benchmarks/finetune.py --sets './photos-{seed}' ./signs --model timm/tf_efficientnet_lite0 --weights FILE
    python benchmarks/finetune.py ... --only "the recipe" "from scratch" --words epochs=8
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Arguments, environment, machine, machine_lines, read_json, say, spend, write, write_json
from photos import accuracy_lines

RECIPE = ["optimizer=adamw", "optimizer.lr=5e-4", "batch_size=32", "threads=1", "plots=false", "tensorboard=false"]
RECIPES: dict[str, list[str]] = {  # name: what differs; words in capitals change the program, see `patch`
    "the recipe": [],
    "last layer random at first": ["RANDOM_HEAD"],
    "batch norm's statistics trained": ["NEW_STATISTICS"],
    "only the last layer trained": ["model.freeze=true"],
    "adamw 0.0002": ["optimizer.lr=2e-4"],
    "adamw 0.0003": ["optimizer.lr=3e-4"],
    "adamw 0.001": ["optimizer.lr=1e-3"],
    "adamw 0.002": ["optimizer.lr=2e-3"],
    "adamw 0.001, layer_decay 0.9": ["optimizer.lr=1e-3", "layer_decay=0.9"],
    "weight decay 0.05": ["optimizer.weight_decay=0.05"],
    "batches of 128, adamw 0.001": ["batch_size=128", "optimizer.lr=1e-3"],
    "sgd 0.0003": ["optimizer=sgd", "optimizer.lr=0.0003"],
    "sgd 0.001": ["optimizer=sgd", "optimizer.lr=0.001"],
    "sgd 0.003": ["optimizer=sgd", "optimizer.lr=0.003"],
    "sgd 0.01": ["optimizer=sgd", "optimizer.lr=0.01"],
    "sgd 0.03": ["optimizer=sgd", "optimizer.lr=0.03"],
    "as earlier versions: adamw 0.005, 128": [
        *("RANDOM_HEAD", "NEW_STATISTICS", "batch_size=128", "optimizer.lr=0.005"),
    ],
    "from scratch: adamw 0.002, batches of 32": ["model.pretrained=false", "optimizer.lr=0.002"],
}


def patch(words: list[str]) -> list[str]:
    """Change the program as the words in capitals say; the others."""
    from imgcls.training import builder

    if "RANDOM_HEAD" in words:
        builder.fit_heads = lambda *_: None
    if "NEW_STATISTICS" in words:
        builder.keep_statistics = lambda _: False
    return [word for word in words if not word.isupper()]


def combined(*parts: list[str]) -> list[str]:
    """The words, of each key the last."""
    return list({word.partition("=")[0]: word for part in parts for word in part}.values())


def measure(args: Any) -> list[dict[str, Any]]:
    """The accuracy of each recipe on each set with each seed."""
    found = []
    for seed in range(args.first_seed, args.seeds):
        for path in args.sets:
            for name, changes in RECIPES.items():
                if args.only and name not in args.only:
                    continue
                own = [f"dataset={path.format(seed=seed)}", f"model={args.model}", f"model.pretrained={args.weights}"]
                with tempfile.TemporaryDirectory(prefix="imgcls-bench-finetune-") as scratch:
                    words = combined(own, RECIPE, args.words, changes, [f"seed={seed}", f"run_dir={scratch}/run"])
                    spent = spend([sys.executable, __file__, "as", *words], env=environment(1, scratch), cwd=scratch)
                    title = Path(path.format(seed="")).name
                    one = {"set": title, "recipe": name, "seed": seed, "wall": spent.wall, "words": args.words}
                    if spent.failure:
                        one["failure"] = spent.failure
                    else:
                        report = json.loads(Path(scratch, "run", "report.json").read_text(encoding="utf-8"))
                        one["accuracy"] = report["accuracy"]
                    found.append(one)
                    say(f"{one}")
                    write_json(args.out, {"machine": machine(), "found": found})
    return found


def main() -> None:
    """Measure, or be one of the runs."""
    if sys.argv[1:2] == ["as"]:
        from imgcls.cli.app import main as run

        sys.exit(run(["train", *patch(sys.argv[2:])]))
    parser = Arguments(__doc__, "finetune", repeats=1, quick="unused")
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--words", nargs="*", default=[], help="further words of imgcls train")
    parser.add_argument("--only", nargs="*", default=[], help="only these recipes")
    parser.add_argument("--merge", nargs="*", default=[], help="write the tables of these .json files, measure nothing")
    args = parser.read()
    if args.merge:
        parts = [read_json(Path(one)) for one in args.merge]
        result = {"machine": parts[0]["machine"], "found": [one for part in parts for one in part["found"]]}
    else:
        result = {"machine": machine(), "found": measure(args)}
    lines = ["# Fine-tuning", "", accuracy_lines(result["found"], "recipe", "recipe"), ""]
    write(args.out, "\n".join([*lines, *machine_lines(result["machine"])]), result)


if __name__ == "__main__":
    main()

"""`imgcls train ...` as a user would run it, ended right after the first update; for startup.py and growth.py.

python benchmarks/first_step.py model=lenet dataset=mnist run_dir=/tmp/run
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from typing import Any


class _AfterLoop(importlib.abc.MetaPathFinder):
    """Patches imgcls.training.loop when it is imported, so that nothing is imported earlier than in a real run."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "imgcls.training.loop":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_change(module: Any) -> None:
            load(module)
            update = module.update

            def update_and_end(*args: Any, **keys: Any) -> None:
                update(*args, **keys)
                os._exit(0)

            module.update = update_and_end

        spec.loader.exec_module = load_and_change
        return spec


if __name__ == "__main__":
    sys.meta_path.insert(0, _AfterLoop())
    from imgcls.cli.app import main

    code = main(["train", *sys.argv[1:]])
    sys.exit(code or "imgcls exited without a single update")

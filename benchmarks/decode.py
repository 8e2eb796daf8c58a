"""Decode all images in a folder in one of four ways and print the images per second; growth.py runs this.

python benchmarks/decode.py bare|bare-draft|resident|streamed FOLDER SIZE WORKERS
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BATCH = 128


def bare(paths: list[str], size: int, use_draft: bool, start: Any, pixels: Any) -> None:
    """Open, convert and resize one process's share of the files into its array."""
    start.wait()
    out = np.frombuffer(pixels, np.uint8).reshape(len(paths), size, size, 3)
    for row, path in enumerate(paths):
        with Image.open(path) as image:
            if use_draft:
                image.draft(None, (size, size))
            out[row] = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def time_bare(paths: list[str], size: int, workers: int, use_draft: bool) -> float:
    """Seconds with plain processes that share the files."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(workers + 1)
    shares = [paths[i::workers] for i in range(workers)]
    arrays = [context.RawArray("B", len(share) * size * size * 3) for share in shares]
    processes = [
        context.Process(target=bare, args=(share, size, use_draft, start, array))
        for share, array in zip(shares, arrays, strict=True)
    ]
    for process in processes:
        process.start()
    start.wait()
    started = time.perf_counter()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"a decoding process exited with code {process.exitcode}")
    return time.perf_counter() - started


def time_imgcls(paths: list[str], size: int, workers: int, is_resident: bool) -> float:
    """Seconds with imgcls's own loaders, including the start of workers."""
    import torch

    from imgcls.data.fetchers import decode_all, make_fetcher
    from imgcls.data.loader import BatchPlan
    from imgcls.data.pixels.preprocessing import Preprocessing
    from imgcls.data.source import Images

    torch.set_num_threads(workers)
    images = Images(np.zeros(len(paths), np.int64), paths=paths)
    shape = Preprocessing(3, size, size, (0.0,) * 3, (1.0,) * 3)
    started = time.perf_counter()
    if is_resident:
        count = len(decode_all(images, shape, threads=workers))
    else:
        fetcher = make_fetcher(images, shape, torch.device("cpu"), is_resident=False, workers=workers, threads=workers)
        count = sum(len(batch) for batch in fetcher.batches(BatchPlan(len(paths), BATCH, seed=0).epoch(0)))
    seconds = time.perf_counter() - started
    if count != len(paths):
        raise SystemExit(f"decoded only {count} of {len(paths)} images")
    return seconds


def main() -> None:
    name, folder, size, workers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    paths = sorted(str(path) for path in Path(folder).glob("*/*.jpg"))
    if name.startswith("bare"):
        seconds = time_bare(paths, size, workers, name == "bare-draft")
    else:
        seconds = time_imgcls(paths, size, workers, name == "resident")
    print(json.dumps({"seconds": seconds, "rate": len(paths) / seconds}))


if __name__ == "__main__":
    main()

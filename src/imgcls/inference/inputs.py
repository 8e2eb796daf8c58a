"""The image files that `imgcls predict` is given: found, then decoded by several processes."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
from collections.abc import Generator, Sequence
from typing import NamedTuple

from imgcls.data.datasets.folders.layout_names import is_junk
from imgcls.data.datasets.folders.scan import Scan, is_image_name
from imgcls.data.pixels.decoding import load_first
from imgcls.data.pixels.opening import quiet_decoders
from imgcls.data.pixels.preprocessing import Preprocessing
from imgcls.errors import DataError, ReadingFailed
from imgcls.inference.classifier import Pixels
from imgcls.parallel.process_pool import helpers, spread


def find_images(inputs: Sequence[str], scan: Scan) -> list[str]:
    """The image files that paths, folders (at any depth) and globs name, in their order, without duplicates."""
    found: dict[str, None] = {}
    for given in inputs:
        for path in _matches(given, scan):
            found.update(dict.fromkeys(scan.images(path) if os.path.isdir(path) else [path]))
    return list(found)


def _matches(given: str, scan: Scan) -> list[str]:
    """The files and folders that one argument names; what a glob finds is filtered by suffix, as in a folder."""
    path = os.path.expanduser(given)
    if os.path.lexists(path):
        return [path]
    if any(mark in given for mark in "*?["):
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise DataError(f"nothing matches {given}")
        typed = set(given.split(os.sep))
        junk = {match: name for match in matches for name in match.split(os.sep) if is_junk(name) and name not in typed}
        scan.junk.update(junk.values())
        matches = [match for match in matches if match not in junk]
        wanted = [match for match in matches if os.path.isdir(match) or is_image_name(match)]
        scan.ignored.update(os.path.splitext(match)[1].lower() or "without suffix" for match in {*matches} - {*wanted})
        return wanted
    if "://" in given:
        raise DataError(f"{given}: URLs are not supported; download the image first")
    raise DataError(f"no such file: {given}")


class Decoded(NamedTuple):
    """A file's pixels or what is wrong with it, and whether it has more frames than the first.

    is_unread: the disk or the network failed, and nothing is known about the picture.
    """

    pixels: Pixels | None = None
    problem: str = ""
    has_more: bool = False
    is_unread: bool = False


def decode_files(
    preprocessing: Preprocessing, paths: Sequence[str], threads: int
) -> Generator[tuple[str, Decoded], None, None]:
    """Each file with its content, in their order, decoded by up to ``threads`` processes."""

    def load(share: range) -> list[Decoded]:
        return [_attempt(preprocessing, paths[row]) for row in share]

    with (
        quiet_decoders(),
        contextlib.closing(
            spread(load, len(paths), helpers(len(paths), threads), size=16, ahead=4 * threads)
        ) as answers,
    ):
        found = (Decoded(*one) for one in itertools.chain.from_iterable(answers))  # a pipe delivers them as tuples
        yield from zip(paths, found, strict=True)


def _attempt(preprocessing: Preprocessing, path: str) -> Decoded:
    try:
        pixels, has_more = load_first(path, preprocessing.view)
    except DataError as error:
        return Decoded(problem=str(error))
    except ReadingFailed as error:
        return Decoded(problem=str(error), is_unread=True)
    except MemoryError:
        return Decoded(problem=f"not a readable image: {path} (out of memory)")
    return Decoded(pixels, has_more=has_more)

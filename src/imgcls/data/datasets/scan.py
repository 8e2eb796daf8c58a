"""Walk folders of images, and count what is skipped."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from imgcls.data.decoding import HEIF_SUFFIXES, SUFFIXES
from imgcls.errors import DataError
from imgcls.text import listing, one_line


class Scan:
    """Walks folders, and counts what it skips.

    within: the folder that no symlink may point out of; None allows any.
    """

    def __init__(self, within: Path | None = None) -> None:
        self.within = None if within is None else os.path.realpath(within)
        self.ignored: Counter[str] = Counter()  # files by suffix
        self.hidden: set[str] = set()  # names of folders
        self.unwrapped: list[Path] = []  # folders that are the only one inside their parent

    def notes(self) -> tuple[str, ...]:
        """What was skipped, as lines to print at the top of a run."""
        counts = sorted(self.ignored.items(), key=lambda pair: (-pair[1], pair[0]))
        by_suffix = ", ".join(f"{count:,} {one_line(suffix)}" for suffix, count in counts[:8])
        more = "; pip install 'imgcls[heif]' to read HEIC and AVIF" if self.ignored.keys() & {*HEIF_SUFFIXES} else ""
        files = f"ignored  {by_suffix} (not image files by their suffix{more})" if by_suffix else ""
        folders = f"ignored  hidden folders: {listing(sorted(self.hidden))}" if self.hidden else ""
        around = [f"folder   using {one_line(str(one))} (the only folder inside its parent)" for one in self.unwrapped]
        return tuple(note for note in (*around, files, folders) if note)

    def _is_hidden(self, name: str, *, is_folder: bool) -> bool:
        hidden = name.startswith(".") or name == "__MACOSX"
        if hidden and is_folder:
            self.hidden.add(name)
        return hidden

    def subfolders(self, folder: Path) -> list[str]:
        """The names of the folders in it, sorted."""
        folders = [entry for entry in entries(folder) if os.path.isdir(entry.path)]
        seen = [entry for entry in folders if not self._is_hidden(entry.name, is_folder=True)]
        for entry in seen:
            self._check_link(entry.path)
        return sorted(entry.name for entry in seen)

    def _check_link(self, path: str) -> None:
        if self.within is None or not os.path.islink(path):
            return
        target = os.path.realpath(path)
        if os.path.commonpath([self.within, target]) != self.within:
            raise DataError(
                f"{one_line(path)} is a symlink out of the data folder, to {one_line(target)}; remove it, or follow "
                "such links with dataset.follow_links=true"
            )

    def images(self, folder: str | Path) -> list[str]:
        """Image files at any depth, sorted. Symlinks are followed, each folder once; a loop is an error."""
        found: list[str] = []
        seen: set[str] = set()
        for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
            real = os.path.realpath(parent)
            if os.path.islink(parent) and _lies_in(parent, real, start=str(folder)):
                raise DataError(
                    f"{one_line(parent)} is a symlink to {one_line(real)}, which contains it: a loop; remove it"
                )
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not self._is_hidden(name, is_folder=True))
            for name in folders:
                self._check_link(os.path.join(parent, name))
            for name in files:
                if self._is_hidden(name, is_folder=False):
                    continue
                if is_image_name(name):
                    found.append(os.path.join(parent, name))
                    self._check_link(found[-1])
                else:
                    self.ignored[os.path.splitext(name)[1].lower() or "without suffix"] += 1
        return sorted(found)


def is_image_name(name: str) -> bool:
    """Whether the suffix is one of an image format."""
    return name.lower().endswith(SUFFIXES)


def _lies_in(link: str, target: str, *, start: str) -> bool:
    """Whether the link, or the folder where the walk started, is somewhere inside the target."""
    inner = [os.path.dirname(link)] if link == start else [os.path.dirname(link), start]
    return any(os.path.commonpath([target, os.path.realpath(one)]) == target for one in inner)


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot read the folder {one_line(str(error.filename))}: {error.strerror}") from error


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in the folder, unsorted. Raises DataError if it cannot be read."""
    try:
        return list(os.scandir(folder))
    except OSError as error:
        _refuse(error)
        raise


def has_images(folder: Path) -> bool:
    """Whether there are image files in the folder itself."""
    return any(is_image_name(entry.name) for entry in entries(folder))

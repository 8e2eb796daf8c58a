"""Walk folders of images, and count what is skipped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from imgcls.data.datasets.folders.layout_names import JUNK_IMAGES, RUN_MARKS, is_junk
from imgcls.data.pixels.opening import HEIF_SUFFIXES, SUFFIXES
from imgcls.errors import DataError
from imgcls.text import listing, one_line

OLD_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
DEEPEST_RUN = 3  # levels: outputs/sweep-1/0 is the third


class Listing(NamedTuple):
    """The names of what lies directly in a folder, sorted folders first; hidden files and junk are not among them."""

    folders: list[str]
    images: list[str]
    others: list[str]


class Scan:
    """Walks folders, each read once, and counts what it skips.

    within: the folder that no symlink may point out of; None allows any. old: as version 0.1.0 did, pass over
    hidden folders only, and not what operating systems and storage devices leave; know fewer suffixes of images.
    """

    def __init__(self, within: Path | None = None, *, old: bool = False) -> None:
        self.within = None if within is None else os.path.realpath(within)
        self.old = old
        self._suffixes = tuple(one for one in SUFFIXES if one in (*OLD_SUFFIXES, *HEIF_SUFFIXES)) if old else SUFFIXES
        self.ignored: Counter[str] = Counter()  # files by suffix
        self.hidden: set[str] = set()  # names of folders
        self.elsewhere = 0  # images that macOS has moved to iCloud, which leaves .NAME.icloud
        self.junk: set[str] = set()  # names of files and folders
        self.runs: set[str] = set()  # folders
        self.unwrapped: dict[Path, str] = {}  # folders that are the only one "inside" or "with images in" their parent
        self._listings: dict[str, Listing] = {}
        self.left_out: set[str] = set()  # folders and files that others have found to be no pictures of the data set
        self.described: dict[str, Any] = {}  # what others made of its folders
        self._found: dict[str, list[str]] = {}
        self._has_links = False  # to folders
        self._runs: dict[str, bool] = {}

    def notes(self) -> tuple[str, ...]:
        """What was skipped, as lines to print at the top of a run."""
        counts = sorted(self.ignored.items(), key=lambda pair: (-pair[1], pair[0]))
        by_suffix = ", ".join(f"{count:,} {one_line(suffix)}" for suffix, count in counts[:8])
        files = f"ignored  {by_suffix} (not image files by their suffix{heif_hint(self.ignored)})" if by_suffix else ""
        folders = f"ignored  hidden folders: {listing(sorted(self.hidden))}" if self.hidden else ""
        around = [
            f"folder   using {one_line(str(one))} (the only folder {how} its parent)"
            for one, how in self.unwrapped.items()
        ]
        left = "left by an operating system, a storage device or a tool"
        junk = f"ignored  {listing(sorted(self.junk))} ({left})" if self.junk else ""
        runs = f"ignored  {listing(sorted(self.runs))} (runs of imgcls)" if self.runs else ""
        are = "images are" if self.elsewhere > 1 else "image is"
        cloud = (
            f"absent   {self.elsewhere:,} {are} in iCloud only: download them in the Finder" if self.elsewhere else ""
        )
        return tuple(note for note in (*around, files, folders, junk, runs, cloud) if note)

    def look(self, folder: str | Path) -> Listing:
        """What lies in the folder itself. Raises DataError if it cannot be read."""
        path = str(folder)
        if (found := self._listings.get(path)) is None:
            self._listings[path] = found = self._read(path)
        return found

    def _read(self, path: str) -> Listing:
        found = Listing([], [], [])
        for entry in entries(path):
            name = entry.name
            is_folder = _is_folder(entry)
            lower = name.lower()
            is_image = not is_folder and lower.endswith(self._suffixes)
            if name[0] == "." or name == "__MACOSX":
                if is_folder:
                    self.hidden.add(name)
                self.elsewhere += name.endswith(".icloud") and name[:-7].lower().endswith(self._suffixes)
            elif (not is_image or lower.startswith(JUNK_IMAGES)) and not self.old and is_junk(name):
                self.junk.add(one_line(name))
            elif is_folder or is_image:
                (found.folders if is_folder else found.images).append(name)
                if is_folder and entry.is_symlink():
                    self._has_links = True
                if self.within is not None:
                    self._check_link(entry.path)
            else:
                found.others.append(name)
        for names in found:
            names.sort()
        return found

    def hidden_there(self, folder: str | Path) -> list[str]:
        """The names of the hidden folders in it that hold images, sorted."""
        names = sorted(one.name for one in entries(folder) if one.name[0] == "." and _is_folder(one))
        return [name for name in names if self.look(os.path.join(folder, name)).images]

    def subfolders(self, folder: str | Path) -> list[str]:
        """The names of the folders in it, sorted, without those that hold runs or are left out."""
        before = os.path.join(folder, "")
        names = self.look(folder).folders
        return [name for name in names if before + name not in self.left_out and not self._passes_over(before + name)]

    def has_images(self, folder: str | Path) -> bool:
        """Whether there are image files in it, at any depth."""
        return bool(self.look(folder).images) or any(
            self.has_images(os.path.join(folder, name))
            for name in self.subfolders(folder)
            if not self.is_link(os.path.join(folder, name))
        )

    def walk(self, folder: str | Path) -> Iterator[str]:
        """The folder and those below it, links aside."""
        waiting = [str(folder)]
        while waiting:
            here = waiting.pop()
            yield here
            inner = [os.path.join(here, name) for name in reversed(self.subfolders(here))]
            waiting += [one for one in inner if not self.is_link(one)]

    def is_link(self, folder: str | Path) -> bool:
        """Whether a folder, which its parent's listing names, is a symlink."""
        return self._has_links and os.path.islink(folder)

    def _passes_over(self, path: str) -> bool:
        """Whether the folder holds runs of imgcls, which is noted."""
        if path not in self._runs:
            self._runs[path] = self._holds_runs(path, DEEPEST_RUN)
            if self._runs[path]:
                self.runs.add(one_line(os.path.basename(path)))
        return self._runs[path]

    def _holds_runs(self, path: str, depth: int) -> bool:
        """Whether the folder is a run, or holds runs and no images but theirs."""
        if self.is_run(path):
            return True
        seen = self.look(path)
        if seen.images or not seen.folders or not depth or os.path.islink(path):
            return False
        inner = [os.path.join(path, name) for name in seen.folders]
        runs = [one for one in inner if self._holds_runs(one, depth - 1)]
        return bool(runs) and not any(self.has_images(one) for one in inner if one not in runs)

    def is_run(self, folder: str | Path) -> bool:
        """Whether the folder is a run of imgcls or a sweep."""
        seen = self.look(folder)
        if not seen.others:
            return False
        names = {*seen.others, *seen.folders}
        return any(marks <= names for marks in RUN_MARKS)

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
        start = str(folder)
        if start in self._found:
            return self._found[start]
        if os.path.islink(start):
            self._has_links = True
        found: list[str] = []
        seen: set[str] = set()
        walked: list[str] = []  # before the first symlink, which alone could lead to a folder twice
        waiting = [start]
        while waiting:
            parent = waiting.pop()
            if not self._has_links:
                walked.append(parent)
            elif self._is_repeated(parent, start, seen, walked):
                continue
            here = self.look(parent)
            before = os.path.join(parent, "")
            found += [path for name in here.images if (path := before + name) not in self.left_out]
            for name in here.others:
                self.ignored[_suffix(name)] += 1
            waiting += [before + name for name in reversed(self.subfolders(parent))]
        self._found[start] = sorted(found)
        return self._found[start]

    def _is_repeated(self, folder: str, start: str, seen: set[str], walked: list[str]) -> bool:
        """Whether a walk has been in the folder, by any path; updates what was seen. Raises DataError for a loop."""
        while walked:
            seen.add(os.path.realpath(walked.pop()))
        real = os.path.realpath(folder)
        if os.path.islink(folder) and _lies_in(folder, real, start=start):
            raise DataError(
                f"{one_line(folder)} is a symlink to {one_line(real)}, which contains it: a loop; remove it"
            )
        is_repeated = real in seen
        seen.add(real)
        return is_repeated

    def suffixes(self, folder: str | Path) -> Counter[str]:
        """How many files that are not images lie in it, at any depth, by suffix."""
        counts = Counter(map(_suffix, self.look(folder).others))
        for name in self.subfolders(folder):
            if not os.path.islink(inner := os.path.join(folder, name)):
                counts += self.suffixes(inner)
        return counts

    def ignored_there(self, folder: str | Path) -> str:
        """' (30 .jfif there are not image files by their suffix)', empty without such files."""
        counts = self.suffixes(folder)
        if not counts:
            return ""
        most = ", ".join(f"{count:,} {one_line(suffix)}" for suffix, count in counts.most_common(5))
        are = "is not an image file by its" if sum(counts.values()) == 1 else "are not image files by their"
        return f" ({most} there {are} suffix{heif_hint(counts)})"


def heif_hint(suffixes: Counter[str]) -> str:
    """How to read HEIC and AVIF, if there are any that cannot be."""
    return "; pip install 'imgcls[heif]' to read HEIC and AVIF" if suffixes.keys() & {*HEIF_SUFFIXES} else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symlink to itself
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without suffix"


def is_image_name(name: str) -> bool:
    """Whether the suffix is one of an image format."""
    return name.lower().endswith(SUFFIXES)


def _lies_in(link: str, target: str, *, start: str) -> bool:
    """Whether the link, or the folder where the walk started, is somewhere inside the target."""
    inner = [os.path.dirname(link)] if link == start else [os.path.dirname(link), start]
    return any(os.path.commonpath([target, os.path.realpath(one)]) == target for one in inner)


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot read the folder {one_line(str(error.filename))}: {error.strerror}") from error


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in the folder, unsorted. Raises DataError if it cannot be read."""
    try:
        return list(os.scandir(folder))
    except OSError as error:
        _refuse(error)
        raise

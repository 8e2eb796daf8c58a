"""Finds the files that a table names: as written, and by their names where the table was made elsewhere."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from imgcls.data.datasets.folders.scan import is_image_name
from imgcls.data.findings import Finding
from imgcls.data.pixels.opening import SUFFIXES
from imgcls.files import is_present
from imgcls.text import listing, one_line

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://|file:", re.IGNORECASE)
ABSOLUTE = re.compile(r"[A-Za-z]:[\\/]|[\\/]")
UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # Label Studio puts this before the names of uploaded files
MOST_FILES = 500_000  # that are looked through for a file of some name


@dataclass
class Files:
    """Finds files below a folder, which relative paths start from.

    is_given: whether the user named the folder (dataset.images): then paths of other machines are looked for in it.
    """

    folder: Path
    is_given: bool
    found: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    several: dict[str, list[str]] = field(default_factory=dict)

    def exact(self, path: str) -> str | None:
        """The path as it is on disk: as written, with slashes for backslashes, or with its suffix; None if absent."""
        plain = path.replace("\\", "/")
        candidates = [path, plain]
        if ADDRESS.match(path) and path.lower().startswith("file:"):
            candidates.append(unquote(urlsplit(plain).path))
        if not path.isascii():
            candidates += [unicodedata.normalize(form, plain) for form in ("NFC", "NFD")]
        suffixes = (
            spelling for suffix in SUFFIXES for spelling in (suffix, suffix.upper()) if not is_image_name(plain)
        )
        if (found := next((one for one in candidates if is_present(Path(self.folder, one))), None)) is not None:
            return found
        found = next((plain + suffix for suffix in suffixes if is_present(Path(self.folder, plain + suffix))), None)
        return None if found is None or self._is_one_of_several(path, found) else found

    def _is_one_of_several(self, path: str, found: str) -> bool:
        """Whether a path without a suffix may mean other files beside the one found, which are kept in several."""
        place = os.path.normpath(found).replace(os.sep, "/")
        stem = os.path.splitext(_fold(os.path.basename(place)))[0]
        pool = self._index[1].get(stem, [])
        beside = [one for one in pool if os.path.dirname(_fold(one)) == os.path.dirname(_fold(place))]
        if len(beside) > 1:
            self.several[path] = beside
        return len(beside) > 1

    def find(self, path: str) -> str | None:
        """The same, else the one file below the folder that can be meant; which ones were taken is kept in found."""
        if (exact := self.exact(path)) is not None:
            return exact
        near, how = self._near(path)
        if near is not None:
            self.found[how].append((path, near))
        return near

    def _near(self, path: str) -> tuple[str | None, str]:
        """The only file of that name: at any place for paths of other machines, else where the folders agree."""
        far = is_far(path)
        if far and not self.is_given:
            return None, ""
        parts = _parts(path)
        if not parts:
            return None, ""
        names, stems = self._index
        own = _fold(parts[-1])
        pools = [(names.get(own, []), "name")]
        pools += [(names.get(uploaded[1], []), "name")] if far and (uploaded := UPLOADED.fullmatch(own)) else []
        pools += [(stems.get(os.path.splitext(own)[0], []), "suffix")]
        for pool, how in pools:
            fits = [one for one in pool if far or self._agrees(parts, one)]
            best = max((_common(parts, one) for one in fits), default=0)
            fits = [one for one in fits if _common(parts, one) == best]
            same = [one for one in fits if _nfc(os.path.basename(one)) == _nfc(parts[-1])]
            whole = [one for one in fits if _fold(one) == "/".join(map(_fold, parts))]
            fits = (same or fits) if len(same) == 1 else whole or same or fits
            if len(fits) == 1:
                return fits[0], how if how == "suffix" or same or far else "case"
            if fits:
                self.several[path] = fits
                return None, ""
        return None, ""

    def _agrees(self, parts: Sequence[str], place: str) -> bool:
        """Whether a relative path is the end of that of a file; or the reverse, if the user named the folder."""
        depth = place.count("/") + 1
        return (self.is_given or len(parts) <= depth) and _common(parts, place) == min(len(parts), depth) - 1

    @cached_property
    def _index(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """The image files below the folder, by name and by name without suffix; nothing if there are too many."""
        names: dict[str, list[str]] = defaultdict(list)
        stems: dict[str, list[str]] = defaultdict(list)
        seen, count = set[str](), 0
        for parent, folders, files in os.walk(self.folder, followlinks=True):
            real = os.path.realpath(parent)
            folders[:] = [] if real in seen else sorted(one for one in folders if not one.startswith("."))
            if real in seen:
                continue
            seen.add(real)
            count += len(files) + len(folders)
            if count > MOST_FILES:
                return {}, {}
            for name in filter(is_image_name, files):
                place = os.path.relpath(os.path.join(parent, name), self.folder).replace(os.sep, "/")
                names[_fold(name)].append(place)
                stems[os.path.splitext(_fold(name))[0]].append(place)
        return names, stems

    def findings(self, name: str) -> list[Finding]:
        """What was found elsewhere than written, for the header. name: the table's."""
        words = {
            "name": "were found by their names",
            "case": "were found under another spelling (upper and lower case, Unicode)",
            "suffix": "were found with another suffix",
        }
        found = []
        for how, pairs in self.found.items():
            shown = [f"{one_line(path)} as {one_line(place)}" for path, place in pairs[:5]]
            text = (
                f"{name}: {len(pairs):,} file{'s' * (len(pairs) > 1)} {words[how]} below {one_line(str(self.folder))}"
            )
            found.append(Finding("found_elsewhere", "note", f"{text} (such as {shown[0]})", len(pairs), tuple(shown)))
        return found

    def advice(self, path: str) -> str:
        """What to do about a file that is not there."""
        if path in self.several:
            return (
                f"{one_line(str(self.folder))} has several files of that name: {listing(self.several[path], 3)}; "
                "write their folders into the table"
            )
        if is_far(path):
            what = "addresses" if ADDRESS.match(path) else "absolute, perhaps of another machine"
            if self.is_given:
                return f"the paths are {what}, and no file below dataset.images has that name"
            first = "download the pictures and add" if path.lower().startswith("http") else "add"
            return f"the paths are {what}: {first} dataset.images=FOLDER to find the files by their names in it"
        if Files(Path.cwd(), is_given=True).exact(path) is not None:
            return "it is below the current folder: add dataset.images=."
        return "paths are relative to the table's folder, or to dataset.images"


def is_far(path: str) -> bool:
    """Whether a path is absolute, of any system, or an address."""
    return bool(ADDRESS.match(path) or ABSOLUTE.match(path))


def _parts(path: str) -> list[str]:
    """Folders and name of a path or an address, without drive, host and dots."""
    plain = path
    if ADDRESS.match(path):
        plain = unquote(urlsplit(path.replace("\\", "/")).path)
    elif "?d=" in path:  # Label Studio: /data/local-files/?d=folder/name.png
        plain = unquote(parse_qs(urlsplit(path).query).get("d", [path])[0])
    plain = re.sub(r"^[A-Za-z]:", "", plain.replace("\\", "/"))
    return [one for one in plain.split("/") if one not in ("", ".", "..")]


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _fold(text: str) -> str:
    return _nfc(_nfc(text).casefold())


def _folds(parts: Sequence[str]) -> list[str]:
    """Folders and name, from the last to the first, the name without its suffix."""
    return [os.path.splitext(_fold(parts[-1]))[0], *(_fold(one) for one in reversed(parts[:-1]))]


def _common(parts: Sequence[str], place: str) -> int:
    """How many of the last parts two paths have in common, the name aside."""
    pairs = zip(_folds(parts)[1:], _folds(place.split("/"))[1:], strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))

"""Where the user says that the data is: what to type instead if there is nothing, an archive or an address."""

from __future__ import annotations

import os
import re
from pathlib import Path

from imgcls.data.datasets.folders.layout_names import TABLE_SUFFIXES, archive_suffix, is_junk
from imgcls.data.datasets.folders.scan import is_image_name
from imgcls.errors import DataError
from imgcls.text import closest, one_line

ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):/+(?P<rest>[^/].*)", re.IGNORECASE)
UNPACK = {".zip": "unzip {0} -d {1}", ".7z": "7z x {0} -o{1}", ".rar": "unrar x {0} {1}/"}


def folder_at(root: str) -> Path:
    """The folder, which exists. Raises DataError that says what to type instead."""
    base = Path(os.path.expanduser(root))
    if os.path.isdir(base):  # Path.is_dir raises for a name that is too long
        return base
    if (address := address_in(root)) is not None:
        raise DataError(f"{address} is an address; download it first, and give the folder: dataset=./photos")
    if not os.path.exists(base):
        raise DataError(f"no such folder: {one_line(str(base))}{nearest(base)}")
    if suffix := archive_suffix(base.name):
        raise DataError(f"{one_line(str(base))} is an archive; {unpack(base, suffix)}")
    if is_image_name(base.name):
        raise DataError(f"not a folder: {one_line(str(base))} is one image; give the folder of the class folders")
    tables = ", ".join(TABLE_SUFFIXES)
    advice = f"; a data set is a folder or a table ({tables}, .txt)" if base.suffix else ""
    raise DataError(f"not a folder: {one_line(str(base))}{advice}")


def no_such_file(root: str) -> DataError:
    """The error for a table that is not there."""
    if (address := address_in(root)) is not None:
        return DataError(f"{address} is an address; download it first, and give the file: dataset=./labels.csv")
    path = Path(os.path.expanduser(root))
    return DataError(f"no such file: {path}{nearest(path)}")


def address_in(root: str) -> str | None:
    """The address (https://..., s3://...) that was given for a path, also if it was made absolute; or None."""
    text = root
    with_slash = f"{os.getcwd()}{os.sep}"
    if text.startswith(with_slash):
        text = text[len(with_slash) :]
    match = ADDRESS.fullmatch(text)
    if match is None or os.path.exists(root) or len(match["scheme"]) < 2:
        return None
    return f"{match['scheme']}://{match['rest']}"


def unpack(archive: Path, suffix: str) -> str:
    """How to unpack the archive, and what to type then."""
    folder = archive.with_name(archive.name[: -len(suffix)])
    command = UNPACK.get(suffix, "mkdir -p {1} && tar -xf {0} -C {1}" if "t" in suffix else "")
    how = command.format(typed(archive), typed(folder))
    return f"unpack it first{f' ({how})' if how else ''}, then dataset={typed(folder)}"


def nearest(path: Path) -> str:
    """ "; did you mean './photos'?" if there is a folder, a table or an archive of a similar name, else ''."""
    parent, name = path.parent, path.name
    while parent != parent.parent and not os.path.isdir(parent):
        parent, name = parent.parent, parent.name
    try:
        found = [one for one in os.scandir(parent) if not one.name.startswith(".") and not is_junk(one.name)]
    except OSError:
        return ""
    known = [
        one.name
        for one in found
        if os.path.isdir(one.path) or one.name.lower().endswith((*TABLE_SUFFIXES, ".txt")) or archive_suffix(one.name)
    ]
    same = {known_one.rpartition(".")[0] or known_one: known_one for known_one in known}
    near = same.get(name) or closest(name.replace(".", " "), {one.replace(".", " ") for one in known})
    if near is None:
        return ""
    real = next((one for one in known if near in (one, one.replace(".", " "))), near)
    return f"; did you mean '{typed(parent / real)}'?"


def typed(path: Path) -> str:
    """The path as one would type it: relative to the working folder if it lies in it."""
    full = os.path.abspath(path)
    here = os.path.join(os.getcwd(), "")
    text = f"./{full[len(here) :]}" if full.startswith(here) else "." if full == here[:-1] else full
    text = one_line(text)
    return f"'{text}'" if re.search(r"[\s'\"&;()$*?#]", text) else text

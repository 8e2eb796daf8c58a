"""``imgcls data``: a look at a data set before anything is trained on it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from imgcls.confdir import Node
from imgcls.data import Source
from imgcls.data.imagefolder import one_line
from imgcls.data.pixels import header, quiet_decoders
from imgcls.data.pool import each
from imgcls.data.source import Images
from imgcls.data.verify import reason
from imgcls.errors import DataError
from imgcls.header import line
from imgcls.logbook import Logbook
from imgcls.prepare import choose_data, load_source

NAMED = 10  # files in the text; the report has all
MOST_ROWS = 12  # classes in the text, if there are more the smallest and the largest
Report = dict[str, Any]


def examine(node: Node, *, is_quiet: bool) -> Report:
    """What is in the data set: counts, sizes, colours, balance, broken files, files that stand twice."""
    choice = choose_data(node)
    source = load_source(choice)
    log = Logbook(is_main=True, is_quiet=is_quiet)
    report = {"dataset": choice.name, **look(source)}
    for text in (*source.notes, *(f"warning  {warning}" for warning in source.warnings)):
        log.say(text)
    for text in describe(report):
        log.result(text)
    return report


class Seen(NamedTuple):
    """An image as it was found; broken: why it cannot be read, if so."""

    height: int = 0
    width: int = 0
    is_grey: bool = False
    digest: str = ""
    broken: str = ""


def look(source: Source) -> Report:
    """The report on a data set, every image of it read once."""
    seen = {part: _seen(images) for part, images in source.parts.items()}
    fine = [one for part in seen.values() for one in part if not one.broken]
    sizes = Counter((one.height, one.width) for one in fine)
    grey = sum(one.is_grey for one in fine)
    broken = [
        {"part": part, "image": str(images.ids[row]), "reason": one.broken}
        for part, images in source.parts.items()
        for row, one in enumerate(seen[part])
        if one.broken
    ]
    counts = {part: np.bincount(one.labels, minlength=len(source.classes)) for part, one in source.parts.items()}
    return {
        "images": {part: len(one) for part, one in source.parts.items()},
        "classes": [
            {"class": name, **{part: int(count[i]) for part, count in counts.items()}}
            for i, name in enumerate(source.classes)
        ],
        "sizes": [{"width": w, "height": h, "images": count} for (h, w), count in sizes.most_common()],
        "grey": grey,
        "colour": len(fine) - grey,
        "broken": broken,
        **_twice(source, {part: [one.digest for one in rows] for part, rows in seen.items()}),
    }


def _seen(images: Images) -> list[Seen]:
    """What each image is, all of them read."""

    def pixels(row: int) -> Seen:
        assert images.whole is not None
        one = images.whole[row if images.rows is None else images.rows[row]]
        height, width, channels = one.shape
        return Seen(height, width, channels == 1, _digest(one.tobytes()))

    def file(row: int) -> Seen:
        assert images.paths is not None
        path = images.paths[row]
        if why := reason(path):
            return Seen(broken=why.removeprefix(f"not a readable image: {path} ").strip("()"))
        try:
            with open(path, "rb") as content:
                return Seen(*header(path), _digest(content.read()))
        except (DataError, OSError) as error:  # gone meanwhile
            return Seen(broken=str(error))

    if images.paths is None:
        return [pixels(row) for row in range(len(images))]
    with quiet_decoders():
        return [Seen(*found) for found in each(file, len(images))]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _twice(source: Source, digests: Mapping[str, Sequence[str]]) -> Report:
    """Images with the same content: how many too many within a part, which stand in two parts or in two classes."""
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for part, own in digests.items():
        for row, digest in enumerate(own):
            if digest:
                places[digest].append((part, row))
    several = [found for found in places.values() if len(found) > 1]
    within: Counter[str] = Counter()
    for found in several:
        within.update({part: count - 1 for part, count in Counter(part for part, _ in found).items() if count > 1})
    leaked = [found for found in several if len({part for part, _ in found}) > 1]
    torn = [found for found in several if len({_label(source, place) for place in found}) > 1]
    return {
        "duplicates": {part: within[part] for part in digests},
        "leaks": [[f"{part}: {_name(source, (part, row))}" for part, row in found] for found in leaked],
        "conflicts": [
            [f"{_name(source, place)} ({source.classes[_label(source, place)]})" for place in found] for found in torn
        ],
    }


def _label(source: Source, place: tuple[str, int]) -> int:
    return int(source.parts[place[0]].labels[place[1]])


def _name(source: Source, place: tuple[str, int]) -> str:
    return str(source.parts[place[0]].ids[place[1]])


# --- words -----------------------------------------------------------------------------------------------------------


def describe(report: Report) -> list[str]:
    """The report as lines for the terminal, under 80 columns."""
    parts = ", ".join(f"{count:,} {part}" for part, count in report["images"].items())
    lines = [line("data", f"{report['dataset']}: {parts}; {len(report['classes'])} classes")]
    colours = [f"{report[kind]:,} {word}" for kind, word in (("grey", "grey"), ("colour", "RGB")) if report[kind]]
    lines.append(line("images", f"{_sizes(report['sizes'])}; {', '.join(colours) or 'none can be read'}"))
    lines += _balance(report)
    if report["broken"]:
        lines.append(line("broken", f"{len(report['broken']):,} cannot be read"))
        lines += [line("", one_line(f"{one['image']}: {one['reason']}")) for one in report["broken"][:NAMED]]
        lines.append(line("", "dataset.on_error=skip leaves them out"))
    for part, count in report["duplicates"].items():
        if count:
            lines.append(line("twice", f"{count:,} of {part} are copies of others of it, byte for byte"))
    for key, words in (("leaks", "in two parts: what is tested has been seen"), ("conflicts", "in two classes")):
        if report[key]:
            lines.append(line("twice", f"{len(report[key]):,} stand {words}"))
            lines += [line("", " = ".join(map(one_line, found))) for found in report[key][:NAMED]]
    if not (report["broken"] or report["leaks"] or report["conflicts"] or any(report["duplicates"].values())):
        lines.append(line("fine", "every image can be read, and none stands twice"))
    return lines


def _sizes(sizes: Sequence[Mapping[str, int]]) -> str:
    """'28x28', or the smallest, the median by area and the largest."""
    if len(sizes) < 2:
        return " ".join(f"{one['width']}x{one['height']}" for one in sizes) or "no sizes"
    ordered = sorted(sizes, key=lambda one: one["width"] * one["height"])
    reached = np.cumsum([one["images"] for one in ordered])
    median = ordered[int(np.searchsorted(reached, reached[-1] / 2))]
    shown = [f"{one['width']}x{one['height']}" for one in (ordered[0], ordered[-1], median)]
    return f"{shown[0]} to {shown[1]}, median {shown[2]} ({len(sizes):,} sizes)"


def _balance(report: Report) -> list[str]:
    """A row for each class, largest first; of many only the ends."""
    parts = list(report["images"])
    rows = sorted(report["classes"], key=lambda row: (-row["train"], row["class"]))
    shown = rows if len(rows) <= MOST_ROWS else [*rows[: MOST_ROWS // 2], None, *rows[-MOST_ROWS // 2 :]]
    width = min(40, max(5, *(len(row["class"]) for row in rows)))
    lines = ["", f"{'class':<{width}}" + "".join(f"{part:>10}" for part in parts)]
    for row in shown:
        if row is None:
            lines.append(f"... {len(rows) - MOST_ROWS:,} more between them")
            continue
        name = row["class"] if len(row["class"]) <= width else row["class"][: width - 3] + "..."
        lines.append(f"{name:<{width}}" + "".join(f"{row[part]:>10,}" for part in parts))
    least, most = rows[-1]["train"], rows[0]["train"]
    if least and most >= 2 * least:
        times = most / least
        lines.append(f"the largest class has {times:.1f} times the images of the smallest: see class_weights, sampler")
    return [*lines, ""]

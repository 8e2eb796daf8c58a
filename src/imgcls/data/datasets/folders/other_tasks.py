"""Whether a folder holds a data set of another task: masks, boxes, pairs of images."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from imgcls.data.datasets.folders import layout_names as names_of
from imgcls.data.datasets.folders.scan import Scan


def task_in(folder: Path, scan: Scan, *, has_classes: bool | None = None) -> str:
    """What the folder looks like, as a clause ("images/ and masks/ look like image segmentation"); empty if nothing.

    has_classes: whether there are class folders in it; None finds out. With classes, annotations without any image are
    merely left over.
    """
    names = scan.subfolders(folder)
    if pair := _pair(folder, scan, names):
        return pair
    sources = [one for one in names if names_of.is_image_folder(one) and scan.has_images(folder / one)]
    targets = {one: task for one in names if (task := names_of.task_of_target(one))} if sources else {}
    pairs = [(one, other) for one in sources for other in targets if other != one]
    for one, other in sorted(pairs, key=_differing_words):
        if scan.has_images(folder / other) or not has_class_folders(folder / one, scan):
            return f"{one}/ and {other}/ look like {targets[other]}"
    if has_classes or (has_classes is None and names):
        return ""
    return _beside(folder, scan)


def _differing_words(pair: tuple[str, str]) -> int:
    """How many words the two names do not share: of train_images, train_masks is nearer than test_masks."""
    one, other = ({*names_of.words_of(name)} for name in pair)
    return len(one ^ other)


def _pair(folder: Path, scan: Scan, names: list[str]) -> str:
    plain = {names_of.without_part(name) or name.lower(): name for name in names} | {one.lower(): one for one in names}
    for (first, second), task in names_of.PAIRS.items():
        if first in plain and second in plain:
            pair = plain[first], plain[second]
            if all(scan.look(folder / name).images for name in pair) and _same_stems(folder, scan, *pair):
                return f"{pair[0]}/ and {pair[1]}/ look like {task}"
    return ""


def _same_stems(folder: Path, scan: Scan, first: str, second: str) -> bool:
    """Whether most images of both have the same names; those to be translated need not."""
    one, other = ({_stem(name) for name in scan.look(folder / name).images} for name in (first, second))
    return first.lower().startswith("train") or len(one & other) >= 0.5 * min(len(one), len(other))


def has_class_folders(folder: Path, scan: Scan) -> bool:
    """Whether there are folders in it that may be classes, in it or in its parts."""
    names = scan.subfolders(folder)
    if not names or scan.look(folder).images:
        return False
    parts = [name for name in names if names_of.part_of(name)]
    return any(scan.subfolders(folder / name) for name in parts) if len(parts) == len(names) else True


def _beside(folder: Path, scan: Scan) -> str:
    """Annotations beside flat images: a file for each of them, or one for all."""
    here = scan.look(folder)
    stems = {_stem(name) for name in here.images}
    if not stems:
        return ""
    if coco := next((name for name in here.others if names_of.COCO.fullmatch(name.lower())), None):
        return f"{coco} beside the images looks like object detection (COCO)"
    same = Counter(os.path.splitext(name)[1].lower() for name in here.others if _stem(name) in stems)
    for suffix, task in names_of.SIDECARS.items():
        if same[suffix] >= 0.5 * len(stems):
            return f"a {suffix} file for each image looks like {task}"
    masks = [name for name in here.images if _stem(name).lower().endswith(("_mask", "_seg", "_gt", "_label", "-mask"))]
    if len(masks) >= 0.3 * len(here.images):
        return f"images such as {masks[0]} look like image segmentation"
    return ""


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]

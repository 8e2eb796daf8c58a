"""Class names that say that a mirrored picture may be of another class."""

from __future__ import annotations

import re
from collections.abc import Sequence

PAIRS = (
    *(("left", "right"), ("links", "rechts"), ("gauche", "droite"), ("izquierda", "derecha"), ("sinistra", "destra")),
    *(
        ("esquerda", "direita"),
        ("лев", "прав"),
        ("左", "右"),
        ("왼쪽", "오른쪽"),
        ("يسار", "يمين"),
        ("port", "starboard"),
    ),
    *(("clockwise", "counterclockwise"), ("clockwise", "anticlockwise"), ("clockwise", "counter-clockwise")),
    *(("clockwise", "counter_clockwise"), ("←", "→"), ("<", ">"), ("⬅", "➡"), ("east", "west"), ("slash", "backslash")),
)  # anywhere in a name
WORDS = (("l", "r"), ("cw", "ccw"), ("b", "d"), ("p", "q"), ("od", "os"), ("lt", "rt"), ("lh", "rh"))  # whole words
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MANY = 8  # digits or letters among the names: fewer may be grades or mere numbers of classes


def telling(classes: Sequence[str]) -> tuple[str, ...]:
    """Names that mirroring may confuse: two opposites, or some of many digits or letters; empty if there are none."""
    names = {name if len(name) == 1 else name.casefold(): name for name in classes}
    for first, second in (*PAIRS, *WORDS):
        for name, shown in names.items():
            if (first, second) in WORDS:
                other = re.sub(rf"(?<![^\W_]){first}(?![^\W_])", second, name)
            else:
                other = name.replace(first, second)
            if other != name and other in names:
                return shown, names[other]
    for group in ([str(digit) for digit in range(10)], NUMBERS):
        if len(found := [name for name in names if name in group]) >= MANY:
            return tuple(names[name] for name in found)
    letters = [name for name in classes if len(name) == 1 and name.isalpha()]
    return tuple(letters) if len(letters) >= MANY else ()


def warning(classes: Sequence[str], what: str) -> str:
    """A warning that ``what`` (flip, tta=flip) may confuse these classes; empty if their names do not say so."""
    found = telling(classes)
    if not found:
        return ""
    if len(found) == 2:
        return f"{what} mirrors images, which may turn the class {found[0]} into {found[1]}"
    return f"{what} mirrors images, which may not be valid for digits and letters ({', '.join(found[:3])}, ...)"

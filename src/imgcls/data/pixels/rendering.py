"""How stored pixels become 8 bits: the color behind transparent ones, and the values that become black and white."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from imgcls.text import show

COLORS = {"white": (255, 255, 255), "black": (0, 0, 0)}
Range = tuple[float, float]


@dataclass(frozen=True)
class Rendering:
    """From stored pixels to 8 bits.

    background: the color that transparent pictures are composited onto. depth: the stored values that become 0 and
    255, with a straight line between them, of pictures with more than 8 bits; None: 0 and 65,535, and no others.
    has_8_bits: the same is done to pictures of 8 bits.
    """

    background: tuple[int, int, int] = COLORS["white"]
    depth: Range | None = None
    has_8_bits: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        depth = None if self.depth is None else list(self.depth)
        return {"background": list(self.background), "depth": depth, "depth_of_8_bits": self.has_8_bits}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Rendering:
        """What a checkpoint says; one without these keys composites onto white and takes all 16 bits.

        Raises ValueError for anything else than ``as_dict`` returns.
        """
        depth = stored.get("depth")
        return cls(
            background_of(stored.get("background", "white")),
            None if depth is None else _range(depth),
            bool(stored.get("depth_of_8_bits", False)),
        )


PLAIN = Rendering()


def background_of(value: Any) -> tuple[int, int, int]:
    """dataset.background as (red, green, blue). Raises ValueError."""
    if isinstance(value, str) and value in COLORS:
        return COLORS[value]
    if isinstance(value, list | tuple) and len(value) == 3 and all(_is_level(one) for one in value):
        return value[0], value[1], value[2]
    raise ValueError(f"dataset.background: expected white, black or [red,green,blue] from 0 to 255, got {show(value)}")


def depth_of(value: Any) -> Literal["auto", "full"] | Range:
    """dataset.depth as auto, full or (low, high). Raises ValueError."""
    if value in ("auto", "full"):
        return value  # type: ignore[no-any-return]
    return _range(value)


def _range(value: Any) -> Range:
    if isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(one) for one in value):
        low, high = float(value[0]), float(value[1])
        if low < high:
            return low, high
    raise ValueError(f"dataset.depth: expected auto, full or [low,high] with low below high, got {show(value)}")


def _is_level(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 1e30 and math.isfinite(value)

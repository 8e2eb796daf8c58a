"""One way to say that a part does not behave as expected."""

from __future__ import annotations

from imgcls.config.components import Component


def require(is_fine: bool, part: Component, problem: str) -> None:
    """Raises AssertionError that names the part, unless all is fine."""
    if not is_fine:
        raise AssertionError(f"{part.name}: {problem}")

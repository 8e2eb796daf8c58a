"""imgcls: train, evaluate and use image classifiers from the command line.

From Python: ``model = imgcls.load("latest"); model.predict(["photo.png"])``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgcls.version import __version__

if TYPE_CHECKING:
    from imgcls.inference.classifier import load as load


__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":  # imported when it is used: torch takes a second and a half
        from imgcls.inference.classifier import load

        return load
    raise AttributeError(f"module 'imgcls' has no attribute '{name}'")

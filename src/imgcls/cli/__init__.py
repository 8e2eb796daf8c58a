"""The command line: ``main`` returns an exit code, ``entry`` is the console script."""

from imgcls.cli.app import entry, main

__all__ = ["entry", "main"]

"""``python -m imgcls`` is ``imgcls``."""

from imgcls.cli.app import entry

if __name__ == "__main__":
    entry()

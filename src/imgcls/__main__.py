"""``python -m imgcls`` is ``imgcls``."""

import sys

from imgcls.cli import main

if __name__ == "__main__":
    sys.exit(main())

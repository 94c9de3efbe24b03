"""``python -m paceline.cli``: the same as ``paceline``, by an interpreter of the caller's choice."""

import sys

from paceline.cli import main

if __name__ == "__main__":
    sys.exit(main())

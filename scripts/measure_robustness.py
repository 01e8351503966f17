#!/usr/bin/env python
"""`lavcap robustness`, from a clone: `lavcap/commands/robustness.py` says what it does."""

import sys

from lavcap.commands.robustness import main


if __name__ == "__main__":
    sys.exit(main())

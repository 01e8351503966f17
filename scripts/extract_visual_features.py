#!/usr/bin/env python
"""`lavcap features`, from a clone: `lavcap/commands/features.py` says what it does."""

import sys

from lavcap.commands.features import main


if __name__ == "__main__":
    sys.exit(main())

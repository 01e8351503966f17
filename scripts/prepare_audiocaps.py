#!/usr/bin/env python
"""`lavcap prepare`, from a clone: `lavcap/commands/prepare.py` says what it does."""

import sys

from lavcap.commands.prepare import main


if __name__ == "__main__":
    sys.exit(main())

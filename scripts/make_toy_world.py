#!/usr/bin/env python
"""`lavcap toy`, from a clone: `lavcap/commands/toy.py` says what it does."""

import sys

from lavcap.commands.toy import main


if __name__ == "__main__":
    sys.exit(main())

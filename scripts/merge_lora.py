#!/usr/bin/env python
"""`lavcap merge`, from a clone: `lavcap/commands/merge.py` says what it does."""

import sys

from lavcap.commands.merge import main


if __name__ == "__main__":
    sys.exit(main())

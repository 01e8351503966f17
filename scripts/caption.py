#!/usr/bin/env python
"""`lavcap caption`, from a clone: `lavcap/commands/caption.py` says what it does."""

import sys

from lavcap.commands.caption import main


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""`lavcap convert`, from a clone: `lavcap/commands/convert.py` says what it does."""

import sys

from lavcap.commands.convert import main


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""`lavcap evaluate`, from a clone: `lavcap/commands/evaluate.py` says what it does."""

import sys

from lavcap.commands.evaluate import main


if __name__ == "__main__":
    sys.exit(main())

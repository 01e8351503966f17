#!/usr/bin/env python
"""`lavcap report`, from a clone: `lavcap/commands/report.py` says what it does."""

import sys

from lavcap.commands.report import main


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""`lavcap push`, from a clone: `lavcap/commands/push.py` says what it does."""

import sys

from lavcap.commands.push import main


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""`lavcap shards`, from a clone: `lavcap/commands/shards.py` says what it does."""

import sys

from lavcap.commands.shards import main


if __name__ == "__main__":
    sys.exit(main())

"""`python -m lavcap`, and `accelerate launch -m lavcap`."""

import sys

from lavcap.commands import main


if __name__ == "__main__":
    sys.exit(main())

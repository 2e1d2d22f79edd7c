"""`python -m harness.run`: see `cli`."""

import sys

from harness.run.cli import main

if __name__ == "__main__":
    sys.exit(main())

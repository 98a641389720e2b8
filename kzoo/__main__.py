"""`python -m kzoo`, the command line."""

import sys

from kzoo.cli import main

if __name__ == "__main__":
    sys.exit(main())

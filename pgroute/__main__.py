"""`python -m pgroute` is `pgroute`."""

import sys

from pgroute.cli import main

if __name__ == "__main__":
    sys.exit(main())

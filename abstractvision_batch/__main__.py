"""`python -m abstractvision_batch` is `avbatch`."""

import sys

from abstractvision_batch.cli import main

if __name__ == "__main__":
    sys.exit(main())

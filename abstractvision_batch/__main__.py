"""`python -m abstractvision_batch` is `avbatch`."""

from abstractvision_batch.cli import main

if __name__ == "__main__":
    main()

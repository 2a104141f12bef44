"""Parquet files opened for reading, so that nothing of Arrow outlives the reader."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pyarrow.parquet as pq


def open_parquet(source: BinaryIO | Path, *, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Open a file for reading on the calling thread alone; pass ``use_threads=False`` to its reads as well.

    Arrow's pre-buffering reads on threads of its own, which let go of a Python buffer at any later time. When that is
    the interpreter's end, the thread cannot take the interpreter's lock and the process aborts (signal 6).

    Args:
        source: The file.
        footer: Its metadata, where they were read before.
    """
    return pq.ParquetFile(source, metadata=footer, pre_buffer=False)

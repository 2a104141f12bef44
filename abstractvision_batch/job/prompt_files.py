"""The endings by which files of prompts are known, and which inline texts are names of such files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

FORMATS = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}
#: Endings of packed files, and what they are packed with.
COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}
_MAX_NAME_CHARACTERS = 2000


def ending_of(name: str) -> str:
    """Return the ending that tells the format, in lower case: `.csv` of `a.CSV.gz`."""
    path = PurePosixPath(name.lower().replace("\\", "/").rpartition("/")[2])
    return PurePosixPath(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def is_file_name(text: object) -> bool:
    """Return whether a text of an inline list names a file of prompts: a known ending, and no space."""
    return (
        isinstance(text, str)
        and len(text) <= _MAX_NAME_CHARACTERS
        and not any(character.isspace() for character in text)
        and ending_of(text) in FORMATS
    )


def names_files(source: str | Sequence[Any]) -> bool:
    """Return whether a `prompts.source` is a file name, or a list of nothing else, not prompts."""
    return isinstance(source, str) or (len(source) > 0 and all(is_file_name(item) for item in source))

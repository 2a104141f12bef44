"""The endings by which files of prompts are known, and which inline texts are names of such files."""

from __future__ import annotations

from pathlib import PurePosixPath

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
#: Endings of files with the values of wildcards.
WILDCARD_SUFFIXES = frozenset({".txt", ".yaml", ".json"})
#: Endings of packed files, and what they are packed with.
COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}
_MAX_NAME_CHARACTERS = 2000
#: A table that was given in Python, in the folder of the run that it was given to, named by a hash of its content.
FRAMES = "prompts"
FRAME_NAME = rf"^{FRAMES}/[0-9a-f]{{16}}\.parquet$"


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


def names_files(source: object) -> bool:
    """Return whether a `prompts.source` says where prompts are, and is no list of them."""
    return not isinstance(source, list) or (len(source) > 0 and all(is_file_name(item) for item in source))

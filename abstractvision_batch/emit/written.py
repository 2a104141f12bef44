"""What was emitted, written to a file or into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from abstractvision_batch.emit.emission import EmittedFile
from abstractvision_batch.errors import SpecError


def write_files(files: Sequence[EmittedFile], output: str, *, into_folder: bool = False) -> list[Path]:
    """Write each file, replacing those of an earlier emission; the paths.

    Args:
        files: What was made.
        output: The file, or a folder: one that is there, or that ends in a slash.
        into_folder: Whether it is a folder in any case.

    Raises:
        SpecError: they cannot be written there.
    """
    folder = into_folder or output.endswith("/") or Path(output).is_dir()
    paths = [Path(output) / file.name if folder else Path(output) for file in files]
    try:
        for path, file in zip(paths, files, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"--output: {output}: cannot be written: {error.strerror or error}") from error
    return paths

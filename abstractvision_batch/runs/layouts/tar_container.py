"""The layout `webdataset`: a tar whose files of one name, up to the first dot, are one sample.

``<id>.png`` is the picture (``<id>.v1.png`` a further view), ``<id>.txt`` the prompt, ``<id>.json`` the row of the plan
and what the picture is. No time, owner or mode of the moment enters, so equal rows make equal bytes.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from abstractvision_batch.runs.layouts.containers import Member


class TarContainer:
    """A tar that is being written."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        # pax writes plain ustar headers for all that fits them, as names and sizes here do.
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  closed by close()
        self._offsets: list[int] = []

    def add(self, row: Mapping[str, Any], members: Sequence[Member]) -> None:
        self._offsets += [self._append(member.name, member.data) for member in members]
        self._append(f"{row['request_id']}.txt", (row["prompt"] or "").encode())
        self._append(f"{row['request_id']}.json", _to_json(row))

    def finish(self) -> list[int]:
        self._tar.close()
        return self._offsets

    def close(self) -> None:
        self._tar.close()

    def _append(self, name: str, data: bytes) -> int:
        info = tarfile.TarInfo(name)  # time, uid and gid 0, no owner's name, mode 0644
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        return self._tar.offset - math.ceil(len(data) / tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _to_json(row: Mapping[str, Any]) -> bytes:
    """Columns that have a value: readers that take types from the first samples would take null for one."""
    there = {name: _finite(value) for name, value in row.items() if value is not None}
    return json.dumps(there, ensure_ascii=False, default=str, allow_nan=False).encode()


def _finite(value: Any) -> Any:
    """JSON has no infinities and no NaN, which a column of a prompt dataset may hold at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return value

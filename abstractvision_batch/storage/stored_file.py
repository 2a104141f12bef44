"""What a store says of one file without opening it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file directly in a folder of a store."""

    name: str
    """Without the folder."""
    size_bytes: int
    modified_at: datetime | None
    """In UTC; None where the store does not say."""


def as_time(value: Any) -> datetime | None:
    """The time that a driver gives as a datetime, as seconds or as ISO 8601 text."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None

"""Values as JSON types."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from abstractvision_batch.text.to_json import to_json


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Own:
    def to_json(self) -> dict[str, Any]:
        return {"own": True}


@dataclass(frozen=True)
class Record:
    at: datetime
    path: Path
    colours: tuple[Colour, ...]
    inner: dict[str, Own]

    also_json: ClassVar[tuple[str, ...]] = ("first",)

    @property
    def first(self) -> Colour:
        return self.colours[0]


def test_a_record_is_spelled_by_its_fields_and_the_properties_that_it_names() -> None:
    record = Record(datetime(2026, 11, 2, tzinfo=UTC), Path("a/b"), (Colour.RED,), {"x": Own()})

    assert to_json(record) == {
        "at": "2026-11-02T00:00:00+00:00",
        "path": "a/b",
        "colours": ["red"],
        "inner": {"x": {"own": True}},
        "first": "red",
    }

"""A call as the server wants it, and its multipart form.

Not covered: sending it (`transport`), what goes in (`image_calls`, `video_calls`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from abstractvision_batch.backends.openai_compatible.speech import Written
from abstractvision_batch.types import Task

#: What httpx takes: (field, (file name or None, content, MIME type or None)).
Part = tuple[str, tuple[str | None, bytes, str | None]]


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a form."""

    field: str
    filename: str
    content: bytes
    mime_type: str


@dataclass(frozen=True, slots=True)
class Call:
    """One POST: JSON fields, or the same fields and files as a form."""

    task: Task
    path: str
    fields: Mapping[str, Any]
    written: Written
    """What the request's parameters became."""
    as_form: bool = False
    uploads: tuple[Upload, ...] = ()
    is_job: bool = False
    """Whether the reply announces a job, to be polled and downloaded."""

    def parts(self) -> list[Part]:
        """The form, fields first."""
        plain = [(name, (None, text.encode(), None)) for name, text in form_fields(self.fields)]
        files = [(one.field, (one.filename, one.content, one.mime_type)) for one in self.uploads]
        return [*plain, *files]


def form_fields(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Values as texts: JSON's words for booleans, a list's items as `name[]`, a mapping as JSON; None is left out."""
    for name, value in fields.items():
        if isinstance(value, list | tuple):
            yield from ((f"{name}[]", _text(item)) for item in value)
        elif value is not None:
            yield name, _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""Describe a run in HTML, for a notebook: counts, the first pictures, links.

The run may be a stranger's: what it says is escaped, and its pictures are decoded and drawn again, small.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from abstractvision_batch.errors import DependencyError, GenerationError, StorageError
from abstractvision_batch.runs.counts import Counts
from abstractvision_batch.runs.files import CONTACT_SHEET, GALLERY_PAGE, MANIFEST, README
from abstractvision_batch.runs.record import RunRecord
from abstractvision_batch.runs.row_files import open_picture
from abstractvision_batch.text.redaction import printable

PICTURES = 8
#: Longest side of a picture, in pixels.
SIDE = 128
_MAX_CHARACTERS = 120
#: What a person looks at, where the run is a folder of this machine.
_LINKED = (GALLERY_PAGE, CONTACT_SHEET, README, MANIFEST)


def _clean(value: object) -> object:
    return printable(value) if type(value) is str else value


_CARD = Environment(
    autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_clean
).from_string(
    """<div style="font: 14px/1.4 system-ui, sans-serif">
<b>{{ name }}</b> · {{ task }} · {{ made_by }}<br>
{{ "{:,}".format(counts.requests) }} requests: {{ "{:,}".format(counts.succeeded) }} succeeded,
{{ "{:,}".format(counts.failed) }} failed{% if counts.not_done %}, {{ "{:,}".format(counts.not_done) }} not done yet
{%- endif %}{% if counts.cost_usd is not none %}, ${{ "{:,.2f}".format(counts.cost_usd) }}{% endif %}<br>
<code>{{ url }}</code>{% for text, address in links %} · <a href="{{ address }}">{{ text }}</a>{% endfor %}
<div style="display: flex; flex-wrap: wrap; gap: 8px; margin-top: 6px">
{% for prompt, source in pictures %}
<figure style="margin: 0; width: {{ side }}px">
{% if source %}
<img src="{{ source }}" alt="" style="max-width: {{ side }}px; display: block">
{% else %}
<i>cannot be shown</i>
{% endif %}
<figcaption style="font-size: 11px; overflow-wrap: anywhere">{{ prompt }}</figcaption></figure>
{% endfor %}
</div>
</div>
"""
)


def describe_run(
    record: RunRecord,
    url: str,
    counts: Counts,
    rows: Iterator[Mapping[str, Any]],
    read: Callable[[Mapping[str, Any]], bytes],
) -> str:
    """Return a run's card; of `rows` the first few are shown, with the bytes that they point to."""
    spec = record.spec
    return _CARD.render(
        name=spec.name,
        task=spec.task,
        made_by=record.made_by,
        url=url,
        counts=counts,
        links=[(name, path.as_uri()) for name in _LINKED if (path := Path(url).absolute() / name).is_file()],
        side=SIDE,
        pictures=[(_shorten(row["prompt"] or ""), _draw(row, read)) for row in islice(rows, PICTURES)],
    )


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"


def _draw(row: Mapping[str, Any], read: Callable[[Mapping[str, Any]], bytes]) -> str:
    try:
        picture = open_picture(row, read)
    except (GenerationError, StorageError, DependencyError):
        return ""
    picture.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()

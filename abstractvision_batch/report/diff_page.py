"""One HTML page of picture pairs that differ: open it in any browser; it needs no other file and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image, ImageChops

from abstractvision_batch.errors import DependencyError, GenerationError, StorageError
from abstractvision_batch.report.contact_sheet import open_opaque
from abstractvision_batch.text.redaction import printable

#: Longest side of a picture on the page, in pixels.
SIDE = 256
#: Differences are drawn this many times as strong, as one level cannot be seen.
AMPLIFIED = 8


def _clean(value: object) -> object:
    return printable(value) if type(value) is str else value


_PAGE = Environment(
    autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_clean
).from_string(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ left }} and {{ right }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1c1c1c; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; }
td { overflow-wrap: anywhere; } th { font-weight: 600; }
figure { margin: 1.5rem 0; padding-top: 1rem; border-top: 1px solid #ddd; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } .pictures div { width: 256px; }
.pictures img { max-width: 256px; display: block; background: #f2f2f2; image-rendering: pixelated; }
.muted { color: #666; font-size: .85rem; } code { font-size: .85rem; }
</style>
<h1>{{ left }}<br>{{ right }}</h1>
<table>
{% for verdict, count in counts.items() %}
<tr><th>{{ verdict }}</th><td>{{ "{:,}".format(count) }}</td></tr>
{% endfor %}
</table>
{% if changes %}
<h2>What is not the same</h2>
<table>
<tr><th></th><th></th><th>left</th><th>right</th></tr>
{% for change in changes %}
<tr><td>{{ change.kind }}</td><td>{{ change.name }}</td>
<td><code>{{ change.left }}</code></td><td><code>{{ change.right }}</code></td></tr>
{% endfor %}
</table>
{% endif %}
<h2>{{ pairs|length }} of {{ "{:,}".format(total) }} pairs that differ, the greatest difference first</h2>
{% for pair in pairs %}
<figure>
<figcaption>
{{ pair.prompt }}<br>
<span class="muted">{{ pair.figures }}{% if pair.changed %}; {{ pair.changed }}{% endif %}<br>
<code>{{ pair.left_id }}</code> · <code>{{ pair.right_id }}</code></span></figcaption>
<div class="pictures">
{% for title, picture in pair.pictures %}
<div>
{% if picture.source %}
<img src="{{ picture.source }}" alt="{{ title }}">
{% else %}
<p>{{ picture.said }}</p>
{% endif %}
<span class="muted">{{ title }}</span></div>
{% endfor %}
</div>
</figure>
{% endfor %}
</html>
"""
)


@dataclass(frozen=True, slots=True)
class PagePair:
    """One pair as the page shows it: two rows of two manifests and what is said of them."""

    left: Mapping[str, Any]
    right: Mapping[str, Any]
    figures: str
    changed: Sequence[str]
    """Columns of the request that differ."""


def draw_page(
    pairs: Sequence[PagePair],
    *,
    left: str,
    right: str,
    total: int,
    counts: Mapping[str, int],
    changes: Sequence[Any],
    read_left: Callable[[Mapping[str, Any]], bytes],
    read_right: Callable[[Mapping[str, Any]], bytes],
) -> str:
    """The page.

    Args:
        pairs: Those to be shown, in order.
        left: Path of one run.
        right: Path of the other.
        total: How many pairs differ.
        counts: Pairs by verdict.
        changes: What else differs, each with `kind`, `name`, `left` and `right`.
        read_left: The bytes that a row of one run points to.
        read_right: The bytes that a row of the other points to.
    """
    return _PAGE.render(
        pairs=[_pair_fields(pair, read_left, read_right) for pair in pairs],
        left=left,
        right=right,
        total=total,
        counts=counts,
        changes=changes,
    )


def _pair_fields(
    pair: PagePair,
    read_left: Callable[[Mapping[str, Any]], bytes],
    read_right: Callable[[Mapping[str, Any]], bytes],
) -> dict[str, Any]:
    one, other = _picture(pair.left, read_left), _picture(pair.right, read_right)
    shown = [("left", one), ("right", other)]
    if isinstance(one, Image.Image) and isinstance(other, Image.Image) and one.size == other.size:
        difference = ImageChops.difference(one, other).point(lambda level: min(255, level * AMPLIFIED))
        shown.append((f"difference × {AMPLIFIED}", difference))
    prompts = dict.fromkeys(str(row["prompt"]) for row in (pair.left, pair.right))
    return {
        "prompt": " → ".join(prompts),
        "figures": pair.figures,
        "changed": ", ".join(
            f"{name} {pair.left[name]} → {pair.right[name]}" for name in pair.changed if name != "prompt"
        ),
        "left_id": pair.left["request_id"],
        "right_id": pair.right["request_id"],
        "pictures": [(title, _as_source(picture)) for title, picture in shown],
    }


def _picture(row: Mapping[str, Any], read: Callable[[Mapping[str, Any]], bytes]) -> Image.Image | str:
    try:
        return open_opaque(row, read)
    except (GenerationError, StorageError, DependencyError) as error:
        return str(error)


def _as_source(picture: Image.Image | str) -> dict[str, str]:
    if isinstance(picture, str):
        return {"source": "", "said": picture}
    out = io.BytesIO()
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    small.save(out, "PNG")
    return {"source": "data:image/png;base64," + base64.b64encode(out.getvalue()).decode(), "said": ""}

"""Variables of a spec said again by value: elsewhere the environment is another one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from abstractvision_batch.spec.env import INTERPOLATED_FIELDS, interpolate
from abstractvision_batch.spec.load import read_values


def restate_variables(spec: str | Path, overrides: Sequence[str] = ()) -> list[str]:
    """`--set` of every field that names a variable, with what it holds here."""
    data = read_values(spec, overrides).data
    replaced, _ = interpolate(data)
    restated = []
    for section, name in INTERPOLATED_FIELDS:
        before, after = (values.get(section, {}).get(name) for values in (data, replaced))
        if before != after:
            restated.append(restate(f"{section}.{name}", after))
    return restated


def restate(field: str, value: object) -> str:
    """`--set` of a field; a `${` in its value is no reference."""
    return f"{field}={json.dumps(value, ensure_ascii=False).replace('${', '$${')}"

"""Lines of options, as AUTOMATIC1111's web interface reads them from a file: `--prompt "a fox" --steps 20 --seed 1`."""

from __future__ import annotations

import re
import shlex
from typing import Any

#: Its names, and ours.
_FIELDS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "steps": "steps",
    "cfg_scale": "guidance_scale",
    "width": "width",
    "height": "height",
    "sampler_name": "scheduler",
}
_OPTION = re.compile(r"\s*--[a-z_]+(\s|$)")


def is_option_line(text: str) -> bool:
    """Return whether a line begins with an option of these."""
    return _OPTION.match(text) is not None and text.split(maxsplit=1)[0].removeprefix("--") in _FIELDS


def parse_option_line(text: str) -> dict[str, Any]:
    """Return the row that a line stands for; one without options is a prompt.

    Raises:
        ValueError: it is not such a line, or has an option that does not say what one picture is.
    """
    if not text.lstrip().startswith("--"):
        return {"prompt": text}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{error} (put each text into quotes)") from None
    row: dict[str, Any] = {}
    if len(words) % 2:
        raise ValueError(f"options and values do not pair up at {words[-1]!r} (put each text into quotes)")
    for option, value in zip(words[::2], words[1::2], strict=True):
        name = option.removeprefix("--")
        if not option.startswith("--") or name not in _FIELDS:
            known = ", ".join(f"--{known}" for known in _FIELDS)
            raise ValueError(f"{option!r} is none of {known} (put each text into quotes, and leave out other options)")
        row[_FIELDS[name]] = value
    if row.get("seed") == "-1":
        del row["seed"]  # any; each request has a seed of its own
    return row

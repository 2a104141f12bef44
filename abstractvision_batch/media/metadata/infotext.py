r"""The `parameters` text that AUTOMATIC1111's web UI writes, and that viewers, CivitAI and prompt readers know.

    a red fox
    Negative prompt: blurry
    Steps: 30, Sampler: DDIMScheduler, CFG scale: 5, Seed: 7, Size: 512x512, Model: some/model, Version: avbatch 0.1.0

The prompt and the negative prompt may have several lines; the last line is `name: value` pairs, a value with a comma, a
colon or a line break as a JSON string. Readers strip each line, and take a line of the prompt that starts with
"Negative prompt:" for what it says: the text is for them, our JSON for the exact words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_NEGATIVE = "Negative prompt:"
_PAIR = re.compile(r'\s*(?P<name>\w[\w /-]*):\s*(?P<value>"(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
#: Fewer pairs on the last line, and readers take it for a part of the prompt.
_MIN_PAIRS = 3
#: Their name of a number, and ours.
_NUMBERS = {
    "Steps": "steps",
    "CFG scale": "guidance_scale",
    "Seed": "seed",
    "Denoising strength": "strength",
    "Frames": "num_frames",
    "FPS": "fps",
}
_WORDS = {"Sampler": "sampler", "Schedule type": "scheduler", "Model": "model"}


def write_infotext(generation: Mapping[str, Any]) -> str:
    """The text of a generation, by the names that a manifest has for its parameters."""
    # Diffusers knows one word for both. Some readers refuse a text without a sampler.
    sampler = generation.get("sampler", generation.get("scheduler", "unknown"))
    pairs = {
        "Steps": generation.get("steps"),
        "Sampler": sampler,
        "Schedule type": generation.get("scheduler") if "sampler" in generation else None,
        "CFG scale": generation.get("guidance_scale"),
        "Seed": generation.get("seed"),
        "Size": f"{generation['width']}x{generation['height']}" if {"width", "height"} <= generation.keys() else None,
        "Model": generation.get("model"),
        "Denoising strength": generation.get("strength"),
        "Frames": generation.get("num_frames"),
        "FPS": generation.get("fps"),
        "Version": f"avbatch {generation.get('avbatch', '')}".strip(),
    }
    lines = [str(generation.get("prompt", ""))]
    if generation.get("negative_prompt"):
        lines.append(f"{_NEGATIVE} {generation['negative_prompt']}")
    lines.append(", ".join(f"{name}: {_shown(value)}" for name, value in pairs.items() if value is not None))
    return "\n".join(lines).strip()


def parse_infotext(text: str) -> dict[str, Any]:
    """Read the text that any tool wrote: what we have a name for under ours, the rest under theirs, as words."""
    *lines, last = text.strip().split("\n")
    pairs = list(_pairs(last))
    if len(pairs) < _MIN_PAIRS:
        lines, pairs = [*lines, last], []
    negative = next((number for number, line in enumerate(lines) if line.strip().startswith(_NEGATIVE)), len(lines))
    found: dict[str, Any] = {"prompt": "\n".join(line.strip() for line in lines[:negative])}
    if negative < len(lines):
        lines[negative] = lines[negative].strip().removeprefix(_NEGATIVE)
        found["negative_prompt"] = "\n".join(line.strip() for line in lines[negative:])
    for name, value in pairs:
        if name == "Size" and (size := re.fullmatch(r"(\d{1,6})x(\d{1,6})", value.strip())):
            found |= {"width": int(size[1]), "height": int(size[2])}
        elif name in _NUMBERS:
            found[_NUMBERS[name]] = _number(value)
        else:
            found[_WORDS.get(name, name)] = _unquoted(value)
    return found


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Each pair, from one comma to the next: a search from every letter takes hours on a long word."""
    start = 0
    while start < len(line):
        found = _PAIR.match(line, start)
        if found:
            yield found["name"], found["value"]
            start = found.end()
        else:
            start = line.find(",", start) + 1 or len(line)


def _shown(value: Any) -> str:
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:\n"') else text


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value.strip()

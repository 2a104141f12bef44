"""What goes into a file and what is found in one, whatever its format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abstractvision_batch.media.metadata.infotext import write_infotext
from abstractvision_batch.media.metadata.source_type import ALGORITHMIC, digital_source_type
from abstractvision_batch.media.metadata.xmp import write_packet

TITLE_CHARS = 120


@dataclass(frozen=True, slots=True)
class Payload:
    """One generation in the forms that files take it in."""

    title: str
    """The prompt's beginning, on one line."""
    prompt: str
    infotext: str
    """The `parameters` text that A1111 and its readers know."""
    json: str
    """Everything, as one JSON object."""
    source_type: str
    system: str | None
    """What IPTC calls the AI system; None where there is none."""
    tool: str

    def xmp(self, *, json: bool = False, short: bool = False) -> bytes:
        """The XMP packet: with the JSON for formats that have no other place, or nothing but the marking."""
        return write_packet(
            source_type=self.source_type,
            tool=self.tool,
            system=self.system,
            prompt=self.prompt if self.system and not short else None,
            json=self.json if json and not short else None,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What a file says; None for what it does not."""

    infotext: str | None = None
    json: str | None = None
    source_type: str | None = None


def build_payload(generation: Mapping[str, Any]) -> Payload:
    """Write a generation down; equal generations give equal text.

    Args:
        generation: JSON values under the names that a manifest has for them (`prompt`, `seed`, `model`, …), `avbatch`
            the version. What is None is left out.
    """
    known = {name: value for name, value in generation.items() if value is not None}
    prompt = str(known.get("prompt", ""))
    source_type = digital_source_type(known)
    return Payload(
        title=" ".join(prompt.split())[:TITLE_CHARS],
        prompt=prompt,
        infotext=write_infotext(known),
        json=json.dumps(known, ensure_ascii=False, sort_keys=True),
        source_type=source_type,
        system=None if source_type == ALGORITHMIC else str(known.get("model", "unknown")),
        tool=f"avbatch {known.get('avbatch', '')}".strip(),
    )

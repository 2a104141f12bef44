"""What goes into a file and what is found in one, whatever its format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import unquote, urlsplit

from abstractvision_batch.media.metadata.infotext import write_infotext
from abstractvision_batch.media.metadata.xmp import write_packet
from abstractvision_batch.text.redaction import without_secrets
from abstractvision_batch.version import __version__

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


_VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"

#: "Created using Generative AI".
TRAINED = f"{_VOCABULARY}trainedAlgorithmicMedia"
#: "Edited using Generative AI": augmented, corrected or enhanced by a model, as by inpainting or outpainting.
EDITED = f"{_VOCABULARY}compositeWithTrainedAlgorithmicMedia"
#: "Pure algorithmic media": made by a formula, with no model trained on samples.
ALGORITHMIC = f"{_VOCABULARY}algorithmicMedia"


def digital_source_type(generation: Mapping[str, Any]) -> str:
    """The term for what was made.

    An image_to_image is an edit, unless a strength of 1 without a mask kept nothing of the input. A video or new views
    of a picture show what the picture did not: they are created.
    """
    if generation.get("backend") == "procedural":
        return ALGORITHMIC
    if generation.get("task") != "image_to_image":
        return TRAINED
    keeps_nothing = generation.get("strength") == 1 and not generation.get("mask_image")
    return TRAINED if keeps_nothing else EDITED


#: Of what a backend says of its output: what it alone knows, and no time, device or count of tries.
_OF_BACKEND = ("seed", "angle", "sampler", "scheduler", "revision", "dtype", "revised_prompt")
_PLACES = ("input_image", "mask_image")


def describe_generation(
    asked: Mapping[str, Any], metadata: Mapping[str, Any], *, width: int, height: int
) -> dict[str, Any]:
    """Describe one generation, for `embed_generation`.

    Of input images, masks and LoRAs only the file's name goes in: a path says more of its owner than of the picture.
    Nor does anything that `extra` calls a secret.

    Args:
        asked: the request by the names that a manifest has for its fields.
        metadata: what the backend says of its output.
        width: of the file, in pixels.
        height: of the file, in pixels.
    """
    known = {**asked, **{name: metadata[name] for name in _OF_BACKEND if name in metadata}}
    known |= dict.fromkeys(metadata.get("not_sent", ()))  # what never reached the server made nothing
    known |= {name: _file_name(known[name]) for name in _PLACES if known.get(name)}
    known["extra"] = without_secrets(known.get("extra")) or None
    known["loras"] = [{**lora, "source": _file_name(lora["source"])} for lora in metadata.get("loras", ())] or None
    known |= {"width": width, "height": height, "avbatch": __version__}
    return {name: value for name, value in known.items() if value is not None}


def _file_name(place: str) -> str:
    """The last part of an absolute path or a URL; a name of the hub stays whole."""
    if "://" in place:
        return PurePosixPath(unquote(urlsplit(place).path)).name
    path = PureWindowsPath(place)  # knows both kinds
    return path.name if path.anchor else place

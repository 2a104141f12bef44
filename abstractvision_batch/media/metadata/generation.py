"""What a file says of how it was made: what was asked for, corrected by what the backend knows better."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import unquote, urlsplit

from abstractvision_batch.text.redaction import without_secrets
from abstractvision_batch.version import __version__

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

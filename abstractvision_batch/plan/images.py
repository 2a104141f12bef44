"""Input images and masks of rows: where they are, that they are there, and how large they are by their headers."""

from __future__ import annotations

import io
import os
import posixpath
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image

from abstractvision_batch.errors import StorageError
from abstractvision_batch.plan.sources import is_remote
from abstractvision_batch.spec.env import resolve_options
from abstractvision_batch.spec.load import LoadedSpec
from abstractvision_batch.storage.urls import open_url

_REMEMBERED_IMAGES = 65_536
_QUARTER_TURNS = (5, 6, 7, 8)
#: Set where the inputs came with the job, to each of its processes as its current folder: wherever that is on a node,
#: an image has the same place in it.
PACKAGED = "AVBATCH_PACKAGED"


@dataclass(frozen=True, slots=True)
class InputImage:
    """One input image. `identity` stands for its content in a request id: its name as written, its size in bytes."""

    url: str
    width: int
    height: int
    identity: str


class ImageProber:
    """Finds and measures the input images of one job; an image that many rows share is opened once."""

    def __init__(self, loaded: LoadedSpec) -> None:
        self._loaded = loaded
        self.probe = lru_cache(maxsize=_REMEMBERED_IMAGES)(self._probe_now)

    def _probe_now(self, folder: str, name: str) -> InputImage:
        """The image `name`, relative to `folder`.

        Raises:
            ValueError: with the message of what is wrong.
            StorageError: a remote store failed.
        """
        url = locate_image(folder, name)
        try:
            with open_url(url, self._options) if is_remote(url) else Path(url).open("rb") as stream:
                return self._measure(url, name, stream)
        except FileNotFoundError:
            raise ValueError(f"{name}: no such file (looked for {url})") from None
        except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            what = "a folder" if isinstance(error, IsADirectoryError) else f"not a readable image: {error}"
            raise ValueError(f"{name}: {what}") from None
        except ImportError as error:
            raise ValueError(f"{name}: no driver for this URL: {error}") from None
        except (ValueError, StorageError):
            raise
        except Exception as error:
            # Each fsspec driver has an error tree of its own, not all of it under OSError.
            raise StorageError(f"{url}: {str(error) or type(error).__name__} (running again tries again)") from error

    @cached_property
    def _options(self) -> Mapping[str, Any]:
        return resolve_options(self._loaded.spec.prompts.storage_options, "prompts.storage_options")

    @staticmethod
    def _measure(url: str, name: str, stream: BinaryIO | Any) -> InputImage:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                width, height = _upright_size(image)
        size = stream.seek(0, io.SEEK_END)
        return InputImage(_recorded(url), width, height, f"{name}|{size}")


def locate_image(folder: str, name: str) -> str:
    """The URL, or the absolute path, of an image that a row in a file of `folder` names.

    Raises:
        ValueError: the name leads out of a remote folder's store.
    """
    if is_remote(name):
        return name
    if is_remote(folder):
        return name if name.startswith("/") else _join(folder, name)
    return str((Path(folder) / Path(name).expanduser()).absolute())


def _recorded(url: str) -> str:
    """What the plan says of where an image is."""
    if is_remote(url) or not os.environ.get(PACKAGED):
        return url
    path, here = Path(os.path.normpath(url)), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else url


def _join(folder: str, name: str) -> str:
    """A relative name in a remote folder; a store knows no ``..`` and would look for an object of that name."""
    if not {".", ".."} & set(name.split("/")):
        return f"{folder}/{name}"
    protocol, _, path = folder.partition("://")
    joined = posixpath.normpath(f"{path}/{name}")
    if joined.split("/")[0] != path.split("/")[0]:
        raise ValueError(f"{name}: leads out of {protocol}://{path.split('/')[0]} (write a whole URL)")
    return f"{protocol}://{joined}"


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """The size as backends see it, who turn a picture as its EXIF says."""
    # A PNG without the tag in its header would be decoded whole to look for it at the end.
    has_tags = image.format != "PNG" or "exif" in image.info
    turned = has_tags and image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
    return (image.height, image.width) if turned else image.size

"""Input images and masks of rows: where they are, that they are there, how large they are, and a hash of their bytes.

Each file is read once when a job is planned, those of stores with several in flight; workers read it again and compare
the hash, so a file that was replaced in between is noticed.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image, UnidentifiedImageError

from abstractvision_batch.errors import StorageError
from abstractvision_batch.job.load import Job
from abstractvision_batch.media.inputs import upright_size
from abstractvision_batch.storage.failures import is_transient
from abstractvision_batch.storage.regular import open_regular, read_regular
from abstractvision_batch.storage.urls import is_remote, open_url, split_part
from abstractvision_batch.text.redaction import lasting_url

_REMEMBERED_IMAGES = 65_536
#: Set where the inputs came with the job, to each of its processes as its current folder: wherever that is on a node,
#: an image has the same place in it.
PACKAGED = "AVBATCH_PACKAGED"


@dataclass(frozen=True, slots=True)
class InputImage:
    """One input image, with its upright size.

    `identity` stands for it in a request id: its name as written, its size in bytes. `sha256` is not part of that, so
    ids stay what they were before there was one.
    """

    url: str
    width: int
    height: int
    identity: str
    sha256: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    @property
    def name(self) -> str:
        """As the row has it."""
        return self.identity.rpartition("|")[0]


class WithImages(Protocol):
    """A prompt, as far as this module goes."""

    @property
    def image(self) -> InputImage | None:
        """The input image."""

    @property
    def mask(self) -> InputImage | None:
        """Its mask."""


P = TypeVar("P", bound=WithImages)


class ImageProber:
    """Finds and measures the input images of one job; an image that many rows share is read once."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._measured = lru_cache(maxsize=_REMEMBERED_IMAGES)(self._measure_now)
        self._failed: dict[tuple[str, str], ValueError | StorageError] = {}
        self.signed = False
        """Whether a URL gave access and is named without what did."""

    def probe(self, folder: str, name: str) -> InputImage:
        """The image `name`, relative to `folder`.

        Raises:
            ValueError: with the message of what is wrong.
            StorageError: a remote store failed.
        """
        if (error := self._failed.pop((folder, name), None)) is not None:
            raise error
        return self._measured(folder, name)

    def read_ahead(self, folder: str, name: object) -> None:
        """Let `probe` find the image read; what is wrong with it is for `probe` to say."""
        if isinstance(name, str) and name:
            try:
                self._measured(folder, name)
            except (ValueError, StorageError) as error:
                self._failed[folder, name] = error

    def _measure_now(self, folder: str, name: str) -> InputImage:
        url = locate_image(folder, name)
        try:
            data = self._read(url)
            if (other := _describe_other(data)) is not None:
                raise ValueError(f"{name}: {other}")
            image = self._measure(url, name, data)
            self.signed |= is_remote(url) and image.url != url
            return image
        except FileNotFoundError:
            raise ValueError(f"{name}: no such file (looked for {url})") from None
        except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            said = "its bytes are of no known kind" if isinstance(error, UnidentifiedImageError) else error
            what = "a folder" if isinstance(error, IsADirectoryError) else f"not a readable image: {said}"
            raise ValueError(f"{name}: {what}") from None
        except ImportError as error:
            raise ValueError(f"{name}: no driver for this URL: {error}") from None
        except (ValueError, StorageError):
            raise
        except Exception as error:
            # Each fsspec driver has an error tree of its own, not all of it under OSError.
            said = str(error) or type(error).__name__
            raise StorageError(f"{url}: {said} (running again tries again)", transient=is_transient(error)) from error

    @cached_property
    def _options(self) -> Mapping[str, Any]:
        return self._job.prompt_options()

    def _read(self, url: str) -> bytes:
        if is_remote(url):
            with open_url(url, self._options) as stream:
                return stream.read()
        file, start, end = split_part(url)
        if start is None or end is None:
            return read_regular(url)
        with open_regular(file) as stream:
            stream.seek(start)
            return stream.read(min(end, os.fstat(stream.fileno()).st_size) - start if end > start else 0)

    @staticmethod
    def _measure(url: str, name: str, data: bytes) -> InputImage:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                width, height = upright_size(image)
        return InputImage(
            _recorded(url), width, height, f"{lasting_url(name)}|{len(data)}", hashlib.sha256(data).hexdigest()
        )


class InputsDigest:
    """SHA-256 over those of the input images and masks of the prompts that are added, in their order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._empty = True

    def add(self, prompt: P) -> P:
        """Take up a prompt's; returns the prompt."""
        for image in (prompt.image, prompt.mask):
            if image is not None:
                self._empty = False
            self._hash.update(bytes.fromhex(image.sha256) if image is not None else b"-")
        return prompt

    @property
    def value(self) -> str | None:
        """In hex digits; None where there is no image."""
        return None if self._empty else self._hash.hexdigest()


#: How files begin that are named like images and are none that can be read.
_OTHERS = {
    b"<!doctype html": "a web page, not an image (was it downloaded without logging in?)",
    b"<html": "a web page, not an image (was it downloaded without logging in?)",
    b"<svg": "an SVG drawing, which has no pixels (export it as PNG)",
    b"<?xml": "XML, not an image (an SVG drawing is exported as PNG)",
    b"%pdf-": "a PDF document, not an image (export the page as PNG)",
    b"version https://git-lfs": "a pointer of Git LFS, not the image (git lfs pull)",
    b"{": "JSON, not an image (an error of the server that it came from?)",
}
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})


def _describe_other(data: bytes) -> str | None:
    """What the bytes of an image file are, where they are something else that is known."""
    if not data:
        return "the file is empty"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return "a HEIC picture, as phones take them, which is not read (save it as PNG or JPEG)"
    begin = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((said for magic, said in _OTHERS.items() if begin.startswith(magic)), None)


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
    if is_remote(url):
        return lasting_url(url)
    if not os.environ.get(PACKAGED):
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

"""Files of repositories on the Hugging Face hub: which there are, how large, which are here, and fetching them.

Downloads go into the hub cache, resume where they stopped, and leave alone what is there. Not covered: which files a
model needs (its backend says).
"""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from abstractvision_batch.errors import DependencyError

#: From the names of a repository's files, and its JSON files by name, to those that are needed.
Choose = Callable[[list[str], Callable[[str], Any]], list[str]]


@dataclass(frozen=True, slots=True)
class HubPart:
    """A repository that a job needs files of."""

    part: str
    """What they are: `model`, `component vae`, `lora 1`."""
    repo_id: str
    choose: Choose
    revision: str | None = None
    cache_dir: str | None = None


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of a repository, settled: names and sizes, and how much of it is not here."""

    part: str
    repo_id: str
    revision: str | None
    cache_dir: str | None
    names: tuple[str, ...]
    size_bytes: int
    missing_bytes: int


def settle_files(part: HubPart) -> HubFiles:
    """Ask the hub which files a part needs, and which of them are not here; fetches a small index at most.

    Raises:
        DependencyError: the hub or the repository is not reached, or is gated.
    """
    from huggingface_hub import HfApi, hf_hub_download

    with _explained(part.repo_id):
        names = HfApi().list_repo_files(part.repo_id, revision=part.revision)

        def read(name: str) -> Any:
            path = hf_hub_download(part.repo_id, name, revision=part.revision, cache_dir=part.cache_dir)
            with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a path of the library's
                return json.load(file)

        chosen = tuple(part.choose(names, read))
        files = _download(part, chosen, dry_run=True)
    missing = sum(file.file_size for file in files if file.will_download)
    size = sum(file.file_size for file in files)
    return HubFiles(part.part, part.repo_id, part.revision, part.cache_dir, chosen, size, missing)


def fetch_files(files: HubFiles) -> str:
    """Bring the files into the hub cache; a download that was cut off goes on. Returns the snapshot's folder.

    Raises:
        DependencyError: the download failed.
    """
    with _explained(files.repo_id):
        return str(_download(files, files.names, dry_run=False))


def _download(part: HubPart | HubFiles, names: Sequence[str], *, dry_run: bool) -> Any:
    from huggingface_hub import snapshot_download

    patterns = [glob.escape(name) for name in names]
    return snapshot_download(
        part.repo_id, revision=part.revision, cache_dir=part.cache_dir, allow_patterns=patterns, dry_run=dry_run
    )


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Say what would help where the hub refuses or is not there."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as exc:
        raise DependencyError(
            f"{repo_id}: gated: only for accounts that accepted its terms (accept them at "
            f"{constants.ENDPOINT}/{repo_id}, then export HF_TOKEN=… or hf auth login)"
        ) from exc
    except RevisionNotFoundError as exc:
        raise DependencyError(f"{repo_id}: has no such revision (see {constants.ENDPOINT}/{repo_id})") from exc
    except RepositoryNotFoundError as exc:
        raise DependencyError(
            f"{repo_id}: not on {constants.ENDPOINT}, or private (correct the id, or export HF_TOKEN=…)"
        ) from exc
    except OfflineModeIsEnabled as exc:
        raise DependencyError(f"{repo_id}: HF_HUB_OFFLINE forbids the network (unset it, or fetch elsewhere)") from exc
    except _failures_of(HfHubHTTPError, OSError, ValueError) as exc:
        said = " ".join(str(exc).split())[:200]
        raise DependencyError(f"{repo_id}: download failed: {said} (the same command goes on)") from exc


def _failures_of(*errors: type[Exception]) -> tuple[type[Exception], ...]:
    """Errors, and those of the HTTP library that the hub's client has loaded: one of these, by its version."""
    loaded = (sys.modules.get(name) for name in ("httpx2", "httpx"))
    return (*errors, *(module.HTTPError for module in loaded if module is not None))

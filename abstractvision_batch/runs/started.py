"""Which runs this user started, kept in the user's own state folder: the proof that a run's record is the user's own.

A run folder cannot prove it, because whoever made the folder made its proof too. So each run that is started leaves a
small file here, named by a hash of the run's place and of its `run.json` and extensions; a copy elsewhere, another
machine or a changed record has none.

The folder is the platform's (`~/.local/state/avbatch` on Linux; XDG_STATE_HOME moves it). One that cannot be written is
a warning: the run goes on, and its verbs ask for --trust later.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from functools import cache
from pathlib import Path

import platformdirs

from abstractvision_batch.runs.record import RunRecord
from abstractvision_batch.storage.local import LocalStore
from abstractvision_batch.storage.store import Store

logger = logging.getLogger(__name__)


def state_folder() -> Path:
    """Where the notes are."""
    return platformdirs.user_state_path("avbatch", appauthor=False) / "started"


def note_started(store: Store, record: RunRecord) -> None:
    """Note that this user started a run, or made it what it is now."""
    path = _note(store, record)
    if path is None or path.exists():
        return
    text = json.dumps({"run": _place(store), "name": record.data["name"]}, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(text, encoding="utf-8")
    except OSError as error:  # nothing of the run depends on it
        _warn(path.parent, error.strerror or str(error))


def was_started_here(store: Store, record: RunRecord) -> bool:
    """Whether this user started the run, on this machine, and its record is as it was then."""
    path = _note(store, record)
    try:
        return path is not None and path.is_file()
    except OSError:
        return False


def _note(store: Store, record: RunRecord) -> Path | None:
    folder = state_folder()
    if not folder.is_absolute():  # nobody's home is known
        _warn(folder, "is not an absolute path")
        return None
    digest = hashlib.sha256(_place(store).encode())
    for revision in record.revisions:
        text = json.dumps(revision, sort_keys=True, separators=(",", ":"))
        digest.update(b"\0" + text.encode())
    return folder / f"{digest.hexdigest()}.json"


def _place(store: Store) -> str:
    return os.path.realpath(store.root) if isinstance(store, LocalStore) else store.url.rstrip("/")


@cache
def _warn(folder: Path, said: str) -> None:
    """Say it once."""
    logger.warning(
        "%s: %s: runs are not noted as started by you, so retry, rerun and verify will ask for --trust "
        "(XDG_STATE_HOME names another folder)",
        folder,
        said,
    )

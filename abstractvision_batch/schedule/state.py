"""The state file of a schedule: what became of each tick, so that none is lost and none begins twice.

    {"spec": …, "cron": …, "timezone": …,
     "seen_until": …      every tick up to here is decided: it is below, was skipped, or is counted in `older`
     "ticks": [{"tick": "2026-11-21T0300Z", "state": "running", "attempts": 1, …}, …]
     "skipped": [{"first": …, "last": …, "ticks": 7}, …]
     "older": {"done": 214, "failed": 1}}

It is written anew, whole and to the disk, before whatever it says is done. One scheduler at a time has it: the lock is
a file of its own, because a file that is replaced cannot hold one.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.job.scheduled_time import parse_time, tick_key
from abstractvision_batch.schedule.cron import Cron
from abstractvision_batch.schedule.tick_process import forget
from abstractvision_batch.storage.json_file import read_local_json
from abstractvision_batch.storage.local import LocalStore

FORMAT = 1
#: Ticks that ended and stay in the file one by one, and ranges of skipped ones.
KEPT = 100

TickState = Literal["due", "running", "done", "failed"]


@dataclass(slots=True)
class Tick:
    """A tick that is due, and what became of it."""

    at: datetime
    """In the timezone of the schedule."""
    state: TickState = "due"
    attempts: int = 0
    """Processes that were started for it."""
    failures: int = 0
    """Of them, those that ended before all was done."""
    retry_at: str | None = None
    pid: int | None = None
    started_at: str | None = None
    ended_at: str | None = None
    exit_code: int | None = None
    said: str | None = None
    path: str | None = None
    """Of the run."""

    @property
    def key(self) -> str:
        """As ``{{ scheduled_at }}`` prints it."""
        return tick_key(self.at)

    def to_json(self) -> dict[str, Any]:
        """As JSON types, without what is not known."""
        plain = {name: value for name, value in asdict(self).items() if value is not None and name != "at"}
        return {"tick": self.key, "scheduled_at": self.at.isoformat(), **plain}


_TICK = TypeAdapter(Tick)


@dataclass(slots=True)
class ScheduleState:
    """What a schedule knows of its ticks; `save` writes it."""

    path: Path
    spec: Path
    cron: Cron
    seen_until: datetime
    ticks: dict[str, Tick] = field(default_factory=dict)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    older: dict[str, int] = field(default_factory=lambda: {"done": 0, "failed": 0, "skipped": 0})

    @property
    def folder(self) -> Path:
        """Where processes of ticks keep their logs."""
        return self.path.with_suffix(".ticks")

    def in_state(self, *states: TickState) -> list[Tick]:
        """Ticks in one of the states, oldest first."""
        return sorted(
            (tick for tick in self.ticks.values() if tick.state in states), key=lambda tick: tick.at.timestamp()
        )

    def skip(self, ticks: Sequence[datetime]) -> None:
        """Note that ticks were missed and are not made."""
        self.skipped.append({"first": tick_key(ticks[0]), "last": tick_key(ticks[-1]), "ticks": len(ticks)})

    def save(self) -> None:
        """Write the file, and forget what ended long ago.

        Raises:
            StorageError: it cannot be written.
        """
        for tick in self.in_state("done", "failed")[:-KEPT]:
            self.older[tick.state] += 1
            forget(self.folder, tick.at)
            del self.ticks[tick.key]
        for skipped in self.skipped[:-KEPT]:
            self.older["skipped"] += skipped["ticks"]
        self.skipped = self.skipped[-KEPT:]
        data = {
            "format": FORMAT,
            "spec": str(self.spec),
            "cron": self.cron.expression,
            "timezone": self.cron.timezone.key,
            "seen_until": self.seen_until.isoformat(),
            "ticks": [tick.to_json() for tick in sorted(self.ticks.values(), key=lambda tick: tick.at.timestamp())],
            "skipped": self.skipped,
            "older": self.older,
        }
        store = LocalStore(self.path.parent)
        store.put(self.path.name, json.dumps(data, indent=2, ensure_ascii=False).encode() + b"\n")
        store.sync_folder("")


def state_path(spec: str | Path) -> Path:
    """The state file of a spec's schedule: `jobs/a.yaml` has `jobs/a.schedule.json`."""
    return Path(spec).expanduser().with_suffix(".schedule.json")


@contextmanager
def open_state(path: Path, spec: Path, cron: Cron, now: datetime) -> Iterator[ScheduleState]:
    """The state of a schedule, as it was left, or new as of now; nobody else has it meanwhile.

    Raises:
        SpecError: another scheduler has it, or it is of another schedule, or no state file.
        StorageError: it cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = Path(f"{path}.lock").open("a+", encoding="utf-8")  # noqa: SIM115  closed below
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error} (choose another --state)") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise SpecError(f"{path}: {holder} runs this schedule (stop it, or choose another --state)") from error
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        state = _read_state(path, spec, cron) or ScheduleState(path, spec, cron, now)
        state.save()
        yield state
        lock.truncate(0)


def _read_state(path: Path, spec: Path, cron: Cron) -> ScheduleState | None:
    try:
        data = read_local_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SpecError(f"{path}: not JSON ({error}) (restore it, or choose another --state)") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise SpecError(f"{path}: no state of a schedule of this version (choose another --state)")
    own = {"spec": str(spec), "cron": cron.expression, "timezone": cron.timezone.key}
    there = {name: data.get(name) for name in own}
    if there != own:
        said = "; ".join(f"{name}: {there[name]} there, {own[name]} here" for name in own if there[name] != own[name])
        raise SpecError(f"{path}: is of another schedule ({said}) (choose another --state, or remove it)")
    try:
        ticks = [_read_tick(tick, cron) for tick in data["ticks"]]
        return ScheduleState(
            path=path,
            spec=spec,
            cron=cron,
            seen_until=datetime.fromisoformat(data["seen_until"]),
            ticks={tick.key: tick for tick in ticks},
            skipped=[
                {"first": str(one["first"]), "last": str(one["last"]), "ticks": int(one["ticks"])}
                for one in data["skipped"]
            ],
            older={name: int(data["older"][name]) for name in ("done", "failed", "skipped")},
        )
    except (KeyError, TypeError, ValueError, AttributeError, SpecError) as error:
        raise SpecError(f"{path}: is damaged: {error!r} (restore it, or choose another --state)") from error


def _read_skipped(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"first": str(data["first"]), "last": str(data["last"]), "ticks": int(data["ticks"])}


def _read_tick(data: Mapping[str, Any], cron: Cron) -> Tick:
    plain = {name: value for name, value in data.items() if name not in ("tick", "scheduled_at")}
    return _TICK.validate_python({"at": parse_time(data["tick"], cron.timezone), **plain})

"""The loop of a schedule: which ticks are due, which of them run, and what becomes of those that ended."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import GivenSpec
from abstractvision_batch.job.scheduled_time import tick_key
from abstractvision_batch.schedule.state import ScheduleState, Tick
from abstractvision_batch.schedule.stop_signal import MAX_SLICE_S, StopSignal
from abstractvision_batch.schedule.tick_process import (
    TickEnding,
    TickProcess,
    forget,
    is_running,
    judge,
    log_path,
    read_result,
    start_tick,
)

CatchUp = Literal["none", "last", "all"]
CATCH_UPS: tuple[CatchUp, ...] = ("none", "last", "all")
INTERRUPTED = 130
#: A tick that is seen later than this was missed: the scheduler was not there, or the machine slept.
MISSED_AFTER_S = 60.0
#: More missed ticks than `all` makes.
MAX_CAUGHT_UP = 10_000
MAX_RETRY_WAIT_S = 3600.0
#: Poll interval for adopted processes, whose exit is not reported to us.
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class ScheduleEvent:
    """Something that happened to a schedule, or to one of its ticks."""

    event: Literal["waiting", "skipped", "started", "adopted", "done", "failed", "retry", "stopping", "stopped"]
    tick: str | None
    said: str
    """For people."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """For programs."""

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {"event": self.event, "tick": self.tick, "said": self.said, **self.more}


@dataclass(frozen=True, slots=True)
class ScheduleOptions:
    """How ticks become runs."""

    catch_up: CatchUp = "last"
    max_running: int = 1
    jitter_s: float = 0.0
    """Each tick starts later by its own part of it, which is always the same."""
    retries: int = 3
    """How often a tick that did not come to its end is resumed."""
    retry_wait_s: float = 30.0
    """Before the first retry; doubled for each further one."""
    ticks: int | None = None
    """End after so many ticks; None: never."""


class Scheduler:
    """Resumes a schedule from its state file and runs its due ticks."""

    def __init__(
        self,
        state: ScheduleState,
        given: GivenSpec,
        options: ScheduleOptions,
        stop_signal: StopSignal,
        on_event: Callable[[ScheduleEvent], object],
    ) -> None:
        self._state = state
        self._given = given
        self._options = options
        self._stop_signal = stop_signal
        self._on_event = on_event
        self._processes: dict[str, TickProcess] = {}
        self._begun: set[str] = set()
        self._ended: dict[str, int] = {}
        self._stop_requests_passed = 0
        self._announced: datetime | None = None

    def run(self) -> int:
        """Run until stopped or until all ticks are done. Returns the exit code."""
        self._take_up()
        while True:
            now = datetime.now(UTC)
            self._reap(now)
            if self._stop_signal.stop_requests:
                if not self._processes:
                    return self._stop()
                self._pass_stop_on()
                self._stop_signal.wait(POLL_S)
                continue
            self._note_due(now)
            self._start_ready(now)
            if self._is_finished():
                return max(self._ended.values(), default=0)
            self._stop_signal.wait(self._seconds_to_next(datetime.now(UTC)))

    def _take_up(self) -> None:
        """Find what an earlier scheduler left running."""
        for tick in self._state.in_state("running"):
            self._begun.add(tick.key)
            if is_running(self._state.folder, tick.at):
                self._processes[tick.key] = TickProcess(tick.at, self._state.folder, tick.pid, None)
                self._tell("adopted", tick, f"still runs from before, pid {tick.pid or 'unknown'}", pid=tick.pid)
                continue
            result = read_result(self._state.folder, tick.at)
            ending = judge(None, result)
            if result is not None and ending.verdict != "again":  # it ended after the scheduler had
                self._end(tick, ending, datetime.now(UTC))
            else:
                tick.state, tick.pid = "due", None

    def _note_due(self, now: datetime) -> None:
        """Write down the ticks that have come since the last look."""
        if self._state.seen_until.astimezone(UTC) > now:
            return  # the clock was put back: these ticks came already
        found = self._state.cron.due(self._state.seen_until, now)
        if not found:
            return
        missed = [tick for tick in found if (now - tick.astimezone(UTC)).total_seconds() > MISSED_AFTER_S]
        caught_up = self._choose_missed(missed, found)
        skipped = missed[: len(missed) - len(caught_up)]
        if skipped:
            self._state.skip(skipped)
        due = [Tick(tick) for tick in (*caught_up, *found[len(missed) :])]
        self._state.ticks.update((tick.key, tick) for tick in due)
        self._state.seen_until = found[-1]
        self._state.save()
        if skipped:
            first, last = tick_key(skipped[0]), tick_key(skipped[-1])
            self._on_event(
                ScheduleEvent(
                    "skipped",
                    None,
                    f"{_ticks(len(skipped))} missed, from {first} to {last}, and not made (--catch-up "
                    f"{self._options.catch_up}; avbatch backfill makes them)",
                    {"first": first, "last": last, "ticks": len(skipped)},
                )
            )

    def _choose_missed(self, missed: Sequence[datetime], found: Sequence[datetime]) -> Sequence[datetime]:
        """The newest of the missed ticks that are made after all."""
        match self._options.catch_up:
            case "none":
                return ()
            case "last":
                return missed[-1:] if len(missed) == len(found) else ()
        if len(missed) > MAX_CAUGHT_UP:
            raise SpecError(
                f"--catch-up all: {len(missed):,} ticks were missed since {tick_key(missed[0])}, more than "
                f"{MAX_CAUGHT_UP:,} (--catch-up last, and avbatch backfill for those that are wanted)"
            )
        return missed

    def _start_ready(self, now: datetime) -> None:
        for tick in self._next_in_turn():
            if self._starts_at(tick) <= now and self._may_begin(tick):
                self._start(tick, now)

    def _next_in_turn(self) -> list[Tick]:
        """What there is room for, oldest first; a tick that waits for its retry or its jitter is not overtaken."""
        room = max(0, self._options.max_running - len(self._processes))
        return self._state.in_state("due")[:room]

    def _may_begin(self, tick: Tick) -> bool:
        limit = self._options.ticks
        return limit is None or tick.key in self._begun or len(self._begun) < limit

    def _starts_at(self, tick: Tick) -> datetime:
        if tick.retry_at is not None:
            return datetime.fromisoformat(tick.retry_at)
        return tick.at.astimezone(UTC) + timedelta(seconds=jitter_of(tick.at, self._state.spec, self._options.jitter_s))

    def _start(self, tick: Tick, now: datetime) -> None:
        tick.state, tick.attempts, tick.pid, tick.retry_at = "running", tick.attempts + 1, None, None
        tick.started_at = tick.started_at or _text(now)
        self._begun.add(tick.key)
        self._state.save()  # before it starts: if this process dies now, the next one resumes it
        process = start_tick(self._given, tick.at, self._state.folder)
        if process is None:  # its process of before was not known to run, and does
            process = TickProcess(tick.at, self._state.folder, None, None)
        self._processes[tick.key] = process
        tick.pid = process.pid
        self._state.save()
        self._tell("started", tick, f"attempt {tick.attempts}, pid {tick.pid}", pid=tick.pid, attempt=tick.attempts)

    def _reap(self, now: datetime) -> None:
        for key, process in list(self._processes.items()):
            ending = process.poll()
            if ending is not None:
                del self._processes[key]
                self._end(self._state.ticks[key], ending, now)

    def _end(self, tick: Tick, ending: TickEnding, now: datetime) -> None:
        tick.pid, tick.exit_code, tick.said, tick.path = None, ending.exit_code, ending.said, ending.path or tick.path
        if ending.verdict == "again" and self._stop_signal.stop_requests:
            tick.state = "due"  # it was told to stop, by this scheduler
            self._state.save()
            self._tell("stopped", tick, f"{ending.said} (the same command resumes it)")
            return
        if ending.verdict == "again":
            tick.failures += 1
            if tick.failures <= self._options.retries:
                self._wait_for_retry(tick, now)
                return
        tick.state = "done" if ending.verdict == "done" else "failed"
        tick.ended_at = _text(now)
        self._ended[tick.key] = 4 if ending.exit_code is None or ending.exit_code < 0 else ending.exit_code
        self._state.save()
        if ending.exit_code == 0:
            forget(self._state.folder, tick.at)
        said = f"{ending.said}, {ending.path}" if ending.path else ending.said
        if tick.state == "failed":
            log = f", {log_path(self._state.folder, tick.at)}" if ending.verdict == "again" else ""
            said += f" (attempt {tick.attempts}{log}; avbatch backfill, or run --at {tick.key}, tries again)"
        self._tell(tick.state, tick, said, exit_code=ending.exit_code, path=tick.path)

    def _wait_for_retry(self, tick: Tick, now: datetime) -> None:
        wait_s = min(self._options.retry_wait_s * 2 ** (tick.failures - 1), MAX_RETRY_WAIT_S)
        tick.state, tick.retry_at = "due", _text(now + timedelta(seconds=wait_s), "milliseconds")
        self._state.save()
        said = f"{tick.said}; resumed in {wait_s:g} s (retry {tick.failures} of {self._options.retries})"
        self._tell("retry", tick, said, exit_code=tick.exit_code, wait_s=wait_s)

    def _pass_stop_on(self) -> None:
        """Tell processes to drain, once for each time that this one was told."""
        while self._stop_requests_passed < self._stop_signal.stop_requests:
            self._stop_requests_passed += 1
            for process in self._processes.values():
                process.terminate()
            said = "running ticks cancel what they generate"
            if self._stop_requests_passed == 1:
                said = "running ticks finish what they generate and commit it (again: cancel it)"
            self._on_event(ScheduleEvent("stopping", None, f"told to stop: no new tick; {said}"))

    def _stop(self) -> int:
        left = [tick.key for tick in self._state.in_state("due", "running")]
        said = f"; not made yet: {', '.join(left[:5])}{', …' if len(left) > 5 else ''}" if left else ""
        self._on_event(ScheduleEvent("stopped", None, f"stopped{said} (the same command goes on)", {"left": left}))
        return INTERRUPTED

    def _is_finished(self) -> bool:
        limit = self._options.ticks
        return limit is not None and len(self._ended) >= limit and not self._processes

    def _seconds_to_next(self, now: datetime) -> float:
        """Until something may be to do."""
        moments = [self._starts_at(tick) for tick in self._next_in_turn() if self._may_begin(tick)]
        upcoming = next(self._state.cron.after(self._state.seen_until), None)
        if upcoming is not None:
            moments.append(upcoming.astimezone(UTC))
            self._announce(upcoming)
        adopted = any(process.adopted for process in self._processes.values())
        soonest = min(((moment - now).total_seconds() for moment in moments), default=MAX_SLICE_S)
        return min(soonest, POLL_S) if adopted else soonest

    def _announce(self, upcoming: datetime) -> None:
        """Say what is waited for, where nothing runs."""
        if self._announced == upcoming or self._processes or self._state.in_state("due"):
            return
        self._announced = upcoming
        said = f"waiting for {tick_key(upcoming)}, {upcoming.isoformat(sep=' ')}"
        self._on_event(ScheduleEvent("waiting", None, said, {"next": tick_key(upcoming)}))

    def _tell(
        self,
        event: Literal["started", "adopted", "done", "failed", "retry", "stopped"],
        tick: Tick,
        said: str,
        **more: Any,
    ) -> None:
        self._on_event(ScheduleEvent(event, tick.key, said, more))


def jitter_of(tick: datetime, spec: Path, jitter_s: float) -> float:
    """Seconds that a tick starts later: from 0 to `jitter_s`, the same for the same tick of the same spec."""
    digest = hashlib.sha256(f"{spec} {tick_key(tick)}".encode()).digest()
    return jitter_s * int.from_bytes(digest[:8]) / 2**64


def _ticks(count: int) -> str:
    return "1 tick" if count == 1 else f"{count:,} ticks"


def _text(time: datetime, timespec: str = "seconds") -> str:
    return time.astimezone(UTC).isoformat(timespec=timespec)

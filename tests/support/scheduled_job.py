"""A small job with time fields on the procedural backend, its schedule, and what both left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.schedule.cron import parse_cron
from abstractvision_batch.schedule.schedule import schedule
from abstractvision_batch.schedule.scheduler import ScheduleEvent, ScheduleOptions
from abstractvision_batch.schedule.state import Tick, open_state, state_path
from tests.support.journal import read_journal

Listener = Callable[[ScheduleEvent], object]


class ScheduledJob:
    """A spec of three requests in three shards, whose begun requests are journalled, and its schedule."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.spec = folder / "job.yaml"
        self.journal = folder / "journal.jsonl"
        self.runs = folder / "runs"
        self.events: list[ScheduleEvent] = []
        self.job = {
            **job,
            "prompts": {"source": ["a fox", "a cat", "a bee"]},
            "samples_per_prompt": 1,
            "params": {"width": 16, "height": 16, "steps": 1, "seed": "{{ epoch_s }}"},
            "execution": {"batch_size": 1, "shard_size": 1, "batch_canary": False},
            "output": {"path": str(self.runs / "{{ scheduled_at }}")},
        }
        self.write()

    def write(self, *, delay_s: float = 0.0, **sections: Any) -> None:
        backend = {"kind": "procedural", "delay_s": delay_s, "journal_path": str(self.journal)}
        self.spec.write_text(yaml.safe_dump({**self.job, "backend": backend, **sections}), encoding="utf-8")

    def schedule(self, cron: str, options: ScheduleOptions, listen: Listener = lambda event: None) -> int:
        """Run the schedule; what happens is told to `listen` and kept in `events`."""

        def on_event(event: ScheduleEvent) -> None:
            self.events.append(event)
            listen(event)

        return schedule(self.spec, cron, options=options, on_event=on_event)

    def told(self, *events: str) -> list[tuple[str, str | None]]:
        return [(one.event, one.tick) for one in self.events if one.event in events]

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(state_path(self.spec).read_text())
        return found

    def left_behind(self, cron: str, seen_until: datetime, *ticks: Tick) -> None:
        """The state file as a scheduler leaves it that was killed."""
        with open_state(state_path(self.spec), self.spec.resolve(), parse_cron(cron), seen_until) as state:
            state.ticks.update((tick.key, tick) for tick in ticks)
            state.save()

    def begun(self) -> Counter[int]:
        """How often each request was begun; its seed is its own among all ticks."""
        return Counter(entry.seed for entry in read_journal(self.journal))


def complete_runs(folder: Path) -> list[str]:
    runs = sorted(path.name for path in folder.iterdir())
    assert [open_run(folder / name).missing_shards() for name in runs] == [[]] * len(runs)
    return runs

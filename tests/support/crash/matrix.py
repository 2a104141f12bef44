"""The crash matrix: a driver is killed at a point, and the same command again must leave the undisturbed run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tests.support.crash.drivers import Ended, Zygote
from tests.support.crash.protocol import Case, temporaries
from tests.support.crash.runs import (
    HEALTHY,
    PROMPTS,
    NewPlace,
    Place,
    audit_command,
    repair_command,
    retry_command,
    run_command,
    write_job,
)

#: Damage of a run that a repair is to mend.
FOREIGN = {
    f"artifacts/00009/{'0' * 26}-{'f' * 12}.png": b"of nothing",
    "manifest/.tmp-left": b"half a pa",
}
#: Prompts by which a run is extended.
ADDED = ("a bee", "a cow")
#: Attempt whose part says that a shard is done, and rows that a scenario generates of each shard that is not.
DONE_BY = {
    "run": (0, {"00000": 2, "00001": 2}),
    "retry": (1, {"00000": 1}),
    "redo": (0, {"00001": 2}),
    "extend": (0, {"00002": 2}),
}


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """What a scenario begins with, and what it leaves where nothing is killed."""

    before: Mapping[str, bytes]
    """The files that are there before."""
    points: list[str]
    """Of the command that the matrix kills."""
    exit_codes: list[int]
    """Of the scenario's commands."""
    names: set[str]
    """Of the files at the end."""
    rows: pa.Table
    sheet: str
    """Digest of the contact sheet."""


class Matrix:
    """Kills drivers on one kind of store."""

    def __init__(self, zygote: Zygote, new_place: NewPlace, folder: Path) -> None:
        self._zygote = zygote
        self._new_place = new_place
        self._folder = folder
        self._specs: dict[tuple[str, ...], Path] = {}
        self._undisturbed: dict[tuple[str, str], Undisturbed] = {}

    def spec(self, layout: str, *added: str) -> Path:
        """The job, with more prompts."""
        if (layout, *added) not in self._specs:
            self._specs[layout, *added] = write_job(self._folder, layout, prompts={"source": [*PROMPTS, *added]})
        return self._specs[layout, *added]

    def commands(self, scenario: str, layout: str, place: Place) -> list[list[str]]:
        """The command that is killed, and those that a user runs after it."""
        run = run_command(self.spec(layout), place)
        return {
            "run": [run],
            "retry": [retry_command(place)],
            "redo": [run],
            "repair": [repair_command(place), [*run, *HEALTHY]],
            "merge": [repair_command(place), run],
            "extend": [[*run_command(self.spec(layout, *ADDED), place), "--extend"]],
        }[scenario]

    def undisturbed(self, scenario: str, layout: str) -> Undisturbed:
        """The scenario as it goes where nothing is killed; each is gone through once."""
        if (scenario, layout) not in self._undisturbed:
            self._undisturbed[scenario, layout] = self._go_through(scenario, layout)
        return self._undisturbed[scenario, layout]

    def _go_through(self, scenario: str, layout: str) -> Undisturbed:
        place = self._new_place()
        before = self._before(scenario, layout)
        place.fill(before)
        commands = self.commands(scenario, layout, place)
        *ended, _, audited = self._zygote.run(*commands, repair_command(place), audit_command(place), root=place.root)
        assert (audited.exit_code, audited.said["findings"]) == (0, [])
        digests = place.digests()
        rows = place.rows()
        codes = [one.exit_code for one in ended]
        return Undisturbed(before, ended[0].points, codes, set(digests), rows, digests["report/contact-sheet.png"])

    def _before(self, scenario: str, layout: str) -> dict[str, bytes]:
        if scenario == "run":
            return {}
        place = self._new_place()
        self._zygote.run(run_command(self.spec(layout), place), root=place.root)
        content = place.content()
        if scenario == "redo":
            del content["manifest/00001-a0.parquet"]
        if scenario == "merge":
            del content["manifest.parquet"]
        if scenario == "repair":
            lost = min(name for name in content if name.startswith("artifacts/00000"))
            self._zygote.run(retry_command(place), root=place.root)
            content = place.content() | FOREIGN
            del content[lost]
        return content

    def check(self, case: Case, *, then: str | None = None, faults: Sequence[str] = ()) -> None:
        """Kill a driver at the case's point, and see that the same command mends everything.

        Args:
            case: The point.
            then: A point of that same command at which it is killed as well, before it is given for the third time.
            faults: Of the store, while drivers are killed.
        """
        undisturbed = self.undisturbed(case.scenario, case.layout)
        place = self._new_place()
        place.fill(undisturbed.before)
        commands = self.commands(case.scenario, case.layout, place)
        points = [case.point] if then is None else [case.point, then]
        for point in points:
            killed = self._zygote.start(commands[:1], place.root, kill_at=point, faults=faults)
            assert killed.wait_for_kill()[-1] == point
        crashed = place.digests()

        *ended, audited = self._zygote.run(*commands, repair_command(place), root=place.root)

        left = {name for name in crashed if name.rpartition("/")[2].startswith(".")} - set(FOREIGN)
        found = {finding["name"] for one in (ended[0], audited) for finding in one.said.get("findings", ())}
        assert len(left) == sum(temporaries(point) for point in points)
        if case.scenario in DONE_BY:
            assert found == left
            check_nothing_is_done_twice(case.scenario, crashed, place.digests(), ended[0])
        if case.point == "end":
            assert ended[0].writes == set()
        check_whole(undisturbed, place, ended, audited)
        place.remove()


def check_nothing_is_done_twice(
    scenario: str, crashed: Mapping[str, str], now: Mapping[str, str], ended: Ended
) -> None:
    """What left its part before the crash is not touched after it."""
    attempt, rows = DONE_BY[scenario]
    parts = {name for name in crashed if name.startswith("manifest/") and name.endswith(".parquet")}
    done = {name.removeprefix("manifest/")[:5] for name in parts if name.endswith(f"-a{attempt}.parquet")}
    assert {name: now[name] for name in parts} == {name: crashed[name] for name in parts}
    touched = {name for name in ended.writes if name in parts or name.removeprefix("artifacts/")[:5] in done}
    assert touched == set()
    assert ended.said["generated"] == sum(rows for shard, rows in rows.items() if shard not in done)


def check_whole(undisturbed: Undisturbed, place: Place, ended: list[Ended], audited: Ended) -> None:
    """What is there now is what the undisturbed commands leave."""
    digests = place.digests()
    assert [one.exit_code for one in ended[-1:]] == undisturbed.exit_codes[-1:], ended[-1].err
    assert (audited.exit_code, audited.said["whole"]) == (0, True)
    assert set(digests) == undisturbed.names
    assert digests["report/contact-sheet.png"] == undisturbed.sheet
    assert place.rows() == undisturbed.rows

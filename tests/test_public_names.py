"""The package's own names: each is imported on first use, and importing the package loads none of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import abstractvision_batch


@pytest.mark.parametrize("name", sorted(set(abstractvision_batch.__all__) - {"__version__"}))
def test_a_public_name_is_what_it_says(name: str) -> None:
    assert getattr(abstractvision_batch, name).__name__ == name


def test_the_verbs_that_a_program_calls_are_public() -> None:
    verbs = {"run", "retry", "rerun", "verify", "diff", "audit", "lock", "generate", "plan", "status", "submit"}

    others = {"validate", "fetch", "load_job", "open_run", "list_runs", "schedule", "backfill"}
    assert verbs | others <= set(abstractvision_batch.__all__)


def test_a_verb_is_its_function_whatever_room_of_its_name_was_imported() -> None:
    code = """
import abstractvision_batch as avb
import abstractvision_batch.plan.build, abstractvision_batch.submit.package, abstractvision_batch.schedule.cron
import abstractvision_batch.verbs.run, abstractvision_batch.verbs.plan
from abstractvision_batch import plan
from abstractvision_batch.plan.build import build_plan
print(*(getattr(avb, name).__module__ for name in ("run", "plan", "submit", "schedule")), plan is avb.plan)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    rooms = ["verbs.run", "verbs.plan", "submit.submit", "schedule.schedule"]
    assert done.stdout.split() == [*(f"abstractvision_batch.{room}" for room in rooms), "True"]


def test_importing_the_package_takes_next_to_no_time() -> None:
    code = "import time; begun = time.process_time(); import abstractvision_batch; print(time.process_time() - begun)"

    taken = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in "123"]

    assert min(taken) < 0.15


def test_importing_the_package_loads_no_room_of_it() -> None:
    code = (
        "import sys; before = set(sys.modules); import abstractvision_batch; "
        "new = {name for name in set(sys.modules) - before if name.partition('.')[0] not in sys.stdlib_module_names}; "
        "print(sorted(new))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['abstractvision_batch', 'abstractvision_batch.version']"

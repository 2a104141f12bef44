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
    verbs = {"load_job", "run", "open_run", "retry", "rerun", "verify", "diff", "audit", "lock", "generate"}

    assert verbs <= set(abstractvision_batch.__all__)


def test_importing_the_package_loads_no_room_of_it() -> None:
    code = (
        "import sys; before = set(sys.modules); import abstractvision_batch; "
        "new = {name for name in set(sys.modules) - before if name.partition('.')[0] not in sys.stdlib_module_names}; "
        "print(sorted(new))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['abstractvision_batch', 'abstractvision_batch.version']"

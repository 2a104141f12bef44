"""`doctor`: what works on this machine, and the command that mends what does not."""

from __future__ import annotations

from typing import Any

from abstractvision_batch.cli.command import JsonOption
from abstractvision_batch.cli.output import print_json, print_lines, print_table


def doctor(as_json: JsonOption = False) -> None:
    """Say what works here, and how to mend what does not.

    Looks at Python, extras, devices, the embedded model and the temporary folder. It never fails.
    """
    from abstractvision_batch.cli.machine import examine_machine

    checks = examine_machine()
    if as_json:
        print_json({"ok": all(check.ok for check in checks if check.needed), "checks": [_to_json(c) for c in checks]})
        return
    print_table(("", "CHECK", "FOUND"), [("ok" if check.ok else "--", check.name, check.found) for check in checks])
    advice = [f"  {check.advice}" for check in checks if not check.ok and check.advice]
    if advice:
        print_lines("", "What is missing, and the command that installs it:", *dict.fromkeys(advice))


def _to_json(check: Any) -> dict[str, Any]:
    return {
        "name": check.name,
        "ok": check.ok,
        "needed": check.needed,
        "found": check.found,
        "advice": check.advice,
        **check.details,
    }

"""How cron reads the line of a crontab, by its manual."""

from __future__ import annotations

import re


def cron_command(crontab: str) -> str:
    """The command of the table's last line: after five fields, with each percent sign behind a backslash."""
    fields = crontab.splitlines()[-1].split(" ", 5)
    assert all(re.fullmatch(r"[0-9*,/-]+", field) for field in fields[:5])
    assert re.search(r"(?<!\\)%", fields[5]) is None
    return fields[5].replace("\\%", "%")

"""The set-up of a bare machine takes packages only."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install_test_tools.sh"


@pytest.mark.parametrize(("arguments", "downloads"), [((), False), (("--kuberay-crds", "CRDS"), True)])
def test_the_set_up_downloads_nothing_unless_it_is_asked_to(
    tmp_path: Path, arguments: tuple[str, ...], *, downloads: bool
) -> None:
    for name in ("curl", "wget", "exiftool", "systemd-analyze"):
        program = tmp_path / name
        program.write_text(f'#!/bin/bash\necho "{name}" >> "{tmp_path}/called"\nexit 1\n')
        program.chmod(0o755)
    given = [argument.replace("CRDS", str(tmp_path / "crds")) for argument in arguments]

    done = subprocess.run(
        ["bash", str(SCRIPT), *given],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert (tmp_path / "called").exists() is downloads
    assert ("of KubeRay" in done.stderr) is downloads

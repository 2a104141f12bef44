"""A real S3 client against a server that throttles, breaks and hangs up: what no stand-in of the client can show."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.retries import Retries
from abstractvision_batch.storage.store import Store, open_store
from tests.support.emulators import StoreServer
from tests.support.faulty_s3 import Fault, FaultyS3, running_door


@pytest.fixture
def faulty_s3(s3_server: StoreServer) -> Iterator[tuple[Store, FaultyS3]]:
    """A store of its own, and its server's faults."""
    with running_door() as (door, endpoint):
        options = {"endpoint_url": endpoint}
        yield open_store(s3_server.new_url(), options, retries=Retries(tries=6, first_wait_s=0.05)), door


@pytest.mark.parametrize("fault", ["throttle", "hang up"])
def test_reads_and_writes_pass_through_throttling_and_resets(faulty_s3: tuple[Store, FaultyS3], fault: str) -> None:
    store, door = faulty_s3
    door.faults = [Fault("PUT", fault, times=2), Fault("GET", fault)]

    store.put("a", b"abc")

    assert store.read("a") == b"abc"
    assert (door.pending, door.requests.count("PUT"), door.requests.count("GET")) == ([], 3, 2)


def test_reading_a_whole_object_is_one_request(faulty_s3: tuple[Store, FaultyS3]) -> None:
    store, door = faulty_s3
    store.put("a", b"abc")
    store.put("empty", b"")
    door.requests.clear()

    assert (store.read("a"), store.read("empty")) == (b"abc", b"")

    assert door.requests == ["GET", "GET"]


def test_a_put_if_absent_whose_answer_is_lost_is_still_ours(faulty_s3: tuple[Store, FaultyS3]) -> None:
    store, door = faulty_s3
    door.faults = [Fault("PUT", "done, then hang up")]

    assert store.put_if_absent("a", b"ours") is True

    assert store.read("a") == b"ours"
    assert store.put_if_absent("a", b"ours") is False


def test_reading_a_stream_goes_on_after_a_reset(faulty_s3: tuple[Store, FaultyS3]) -> None:
    store, door = faulty_s3
    store.put("a", bytes(range(256)) * 4096)
    with store.open("a") as stream:
        assert stream.read(2) == b"\x00\x01"
        door.faults = [Fault("GET", "hang up")]
        stream.seek(700_001)
        assert stream.read(1) == bytes([700_001 % 256])
        assert door.pending == []


def test_a_server_that_always_throttles_is_a_storage_error_after_six_requests(
    faulty_s3: tuple[Store, FaultyS3],
) -> None:
    """Six and not sixty: the client's own retries are off."""
    store, door = faulty_s3
    door.faults = [Fault("PUT", "throttle", times=40)]

    with pytest.raises(StorageError, match="Reduce your request rate"):
        store.put("a", b"1")

    assert door.requests == ["PUT"] * 6


def test_a_large_file_goes_up_in_parts_and_only_once(
    s3_server: StoreServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("large") / "file"
    with path.open("wb") as file:
        file.truncate(101 << 20)  # s3fs puts less than 100 MiB in one request
    store = open_store(s3_server.new_url())

    assert store.put_if_absent("a", path) is True
    assert store.put_if_absent("a", path) is False

    assert store.scan("")[0].size_bytes == 101 << 20

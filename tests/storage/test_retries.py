"""What a store does when its requests fail, hang, are throttled, or fail to say that they succeeded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import botocore.exceptions
import gcsfs.retry
import pytest
import requests.exceptions
from azure.core import exceptions as azure_exceptions
from s3fs.errors import translate_boto_error

from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.failures import Failure, classify
from abstractvision_batch.storage.objects import ObjectStore
from abstractvision_batch.storage.retries import DEFAULT_PATIENCE_S
from tests.support.faulty_filesystem import FakeTime, Fault, faulty_store


def _s3(code: str, status: int, **body: str) -> Exception:
    """As s3fs raises it."""
    answer: Any = {"Error": {"Code": code, **body}, "ResponseMetadata": {"HTTPStatusCode": status}}
    try:
        raise translate_boto_error(botocore.exceptions.ClientError(answer, "PutObject"))
    except Exception as exc:  # noqa: BLE001  s3fs gives many types
        return exc


def _azure(status: int, code: str | None = None, cls: type = azure_exceptions.HttpResponseError) -> Exception:
    error: Exception = cls("no\nRequestId:1\nTime:2")
    vars(error).update(status_code=status, error_code=code)
    return error


SLOW_DOWN = _s3("SlowDown", 503)
RESET = ConnectionResetError("reset by peer")


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (_s3("PreconditionFailed", 412, Condition="If-None-Match"), Failure.EXISTS),
        (_s3("PreconditionFailed", 412), Failure.EXISTS),
        (FileExistsError("gcsfs and adlfs"), Failure.EXISTS),
        (_s3("ConditionalRequestConflict", 409), Failure.TRANSIENT),
        (SLOW_DOWN, Failure.TRANSIENT),
        (_s3("InternalError", 500), Failure.TRANSIENT),
        (_s3("RequestTimeout", 400), Failure.TRANSIENT),
        (_s3("NotImplemented", 501), Failure.UNSUPPORTED),
        (_s3("NoSuchBucket", 404), Failure.NO_BUCKET),
        (_s3("NoSuchKey", 404), Failure.MISSING),
        (_s3("AccessDenied", 403), Failure.DENIED),
        (_s3("EntityTooLarge", 400), Failure.OTHER),
        (botocore.exceptions.NoCredentialsError(), Failure.DENIED),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://s3"), Failure.TRANSIENT),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://s3"), Failure.TRANSIENT),
        (botocore.exceptions.ConnectionClosedError(endpoint_url="http://s3"), Failure.TRANSIENT),
        (gcsfs.retry.HttpError({"code": 503, "message": "busy"}), Failure.TRANSIENT),
        (gcsfs.retry.HttpError({"code": 429, "message": "slower"}), Failure.TRANSIENT),
        (gcsfs.retry.HttpError({"code": 401, "message": "Invalid Credentials"}), Failure.DENIED),
        (gcsfs.retry.ChecksumError(), Failure.TRANSIENT),
        (OSError("Forbidden: http://gcs\nno"), Failure.DENIED),
        (ValueError("Bad Request: http://gcs\ninvalid"), Failure.OTHER),
        (requests.exceptions.ProxyError(), Failure.TRANSIENT),
        (aiohttp.ServerDisconnectedError(), Failure.TRANSIENT),
        (aiohttp.ClientPayloadError(), Failure.TRANSIENT),
        (_azure(503, "ServerBusy"), Failure.TRANSIENT),
        (_azure(500, "OperationTimedOut"), Failure.TRANSIENT),
        (azure_exceptions.ServiceResponseError("reset"), Failure.TRANSIENT),
        (azure_exceptions.ServiceRequestError("no route"), Failure.TRANSIENT),
        (_azure(404, "ContainerNotFound", azure_exceptions.ResourceNotFoundError), Failure.NO_BUCKET),
        (_azure(403, "AuthorizationFailure"), Failure.DENIED),
        (TimeoutError(), Failure.TRANSIENT),
        (RESET, Failure.TRANSIENT),
        (FileNotFoundError("x"), Failure.MISSING),
        (KeyError("a bug"), None),
    ],
    ids=lambda value: getattr(value, "name", None) or repr(value)[:60],
)
def test_every_drivers_way_of_saying_it_is_understood(error: Exception, failure: Failure | None) -> None:
    assert classify(error) is failure


def _fill(store: ObjectStore) -> None:
    store.put("folder/name", b"abc")


#: One call of each method of a store, the operation of the file system that it fails in, and what it answers.
CALLS: dict[str, tuple[str, Callable[[ObjectStore, Path], object], object]] = {
    "put": ("pipe_file", lambda store, path: store.put("a", b"1"), None),
    "put_if_absent": ("pipe_file", lambda store, path: store.put_if_absent("a", b"1"), True),
    "put_file": ("put_file", lambda store, path: store.put("a", path), None),
    "put_file_if_absent": ("put_file", lambda store, path: store.put_if_absent("a", path), True),
    "read": ("cat_file", lambda store, path: store.read("folder/name"), b"abc"),
    "open": ("info", lambda store, path: store.open("folder/name").read(), b"abc"),
    "read a stream": ("cat_file", lambda store, path: store.open("folder/name").read(), b"abc"),
    "exists": ("info", lambda store, path: store.exists("folder/name"), True),
    "list": ("ls", lambda store, path: store.list("folder"), ["name"]),
    "scan": ("ls", lambda store, path: [file.size_bytes for file in store.scan("folder")], [3]),
    "delete": ("rm_file", lambda store, path: store.delete("folder/name"), None),
    "probe": ("pipe_file", lambda store, path: store.probe_conditional_put(), True),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_tried_again_after_a_passing_failure(call: str, tmp_path: Path) -> None:
    operation, action, answer = CALLS[call]
    (tmp_path / "file").write_bytes(b"1")
    time = FakeTime()
    store, filesystem = faulty_store(time)
    _fill(store)
    filesystem.faults = [Fault(operation, SLOW_DOWN), Fault(operation, RESET), Fault(operation, TimeoutError())]

    assert action(store, tmp_path / "file") == answer

    assert filesystem.faults == []
    assert time.waits_s == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("call", CALLS)
def test_a_failure_that_stays_is_one_storage_error_after_one_try(call: str, tmp_path: Path) -> None:
    operation, action, _ = CALLS[call]
    (tmp_path / "file").write_bytes(b"1")
    time = FakeTime()
    store, filesystem = faulty_store(time)
    _fill(store)
    filesystem.faults = [Fault(operation, _s3("AccessDenied", 403, Message="no\nmore"))]

    denied = r"^faulty://bucket/run[^\n]*: access denied: no \(docs/storage.md[^\n]*$"
    with pytest.raises(StorageError, match=denied) as caught:
        action(store, tmp_path / "file")

    assert time.waits_s == []
    assert not caught.value.transient


def test_a_store_that_never_recovers_is_given_up_after_two_minutes_with_growing_waits() -> None:
    time = FakeTime()
    store, filesystem = faulty_store(time, total_s=DEFAULT_PATIENCE_S)
    filesystem.faults = [Fault("pipe_file", SLOW_DOWN) for _ in range(20)]

    with pytest.raises(StorageError, match="faulty://bucket/run/a") as caught:
        store.put("a", b"1")

    assert caught.value.transient
    assert filesystem.calls.count("pipe_file") == 12
    assert time.waits_s == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0, 20.0, 20.0, 8.5]
    assert time.now_s == 120.0


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7])
def test_the_patience_is_the_same_however_the_dice_fall(share: float) -> None:
    time = FakeTime()
    store, filesystem = faulty_store(time, total_s=DEFAULT_PATIENCE_S, random=lambda: share)
    filesystem.faults = [Fault("pipe_file", SLOW_DOWN) for _ in range(5000)]

    with pytest.raises(StorageError):
        store.put("a", b"1")

    assert 119.9 < time.now_s <= 120.0


def test_no_try_starts_after_the_total_time_when_each_try_hangs() -> None:
    time = FakeTime()
    store, filesystem = faulty_store(time, total_s=100.0)
    hang = Fault("pipe_file", TimeoutError("60 s without an answer"), also=lambda: time.sleep(60))
    filesystem.faults = [hang] * 6

    with pytest.raises(StorageError):
        store.put("a", b"1")

    assert filesystem.calls.count("pipe_file") == 2


def test_jitter_spreads_waits_from_nothing_to_the_longest() -> None:
    time, shares = FakeTime(), iter([0.0, 0.5])
    store, filesystem = faulty_store(time, random=lambda: next(shares))
    filesystem.faults = [Fault("pipe_file", SLOW_DOWN), Fault("pipe_file", SLOW_DOWN)]

    store.put("a", b"1")

    assert time.waits_s == [0.0, 0.5]


def test_a_bug_is_neither_tried_again_nor_called_a_storage_failure() -> None:
    store, filesystem = faulty_store()
    filesystem.faults = [Fault("pipe_file", KeyError("a bug"))]

    with pytest.raises(KeyError):
        store.put("a", b"1")


@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_a_put_that_reported_failure_but_succeeded_counts_as_ours(kind: str, tmp_path: Path) -> None:
    store, filesystem = faulty_store()
    (tmp_path / "file").write_bytes(b"ours" * 3_000_000)  # compared in two pieces
    operation = "pipe_file" if kind == "bytes" else "put_file"
    filesystem.faults = [Fault(operation, RESET, done_first=True)]

    if kind == "bytes":
        assert store.put_if_absent("a", b"ours") is True
    else:
        assert store.put_if_absent("a", tmp_path / "file") is True


def test_a_put_that_the_client_sent_twice_by_itself_counts_as_ours() -> None:
    """The first PUT makes the object and its answer is lost; the second one, which we never see, meets it."""
    store, filesystem = faulty_store()
    filesystem.faults = [Fault("pipe_file", _s3("PreconditionFailed", 412), done_first=True)]

    assert store.put_if_absent("a", b"ours") is True


def test_a_put_that_failed_while_another_writer_won_is_lost() -> None:
    store, filesystem = faulty_store()
    filesystem.faults = [Fault("pipe_file", RESET, also=lambda: filesystem._put("/bucket/run/a", b"theirs", "create"))]

    assert store.put_if_absent("a", b"ours") is False

    assert store.read("a") == b"theirs"


def test_another_writers_equal_bytes_are_theirs_where_our_put_never_failed() -> None:
    store, _ = faulty_store()

    assert store.put_if_absent("a", b"same") is True
    assert store.put_if_absent("a", b"same") is False


@pytest.mark.parametrize("other_wins", [False, True])
def test_a_put_that_collides_with_another_is_put_again(other_wins: bool) -> None:
    """AWS answers 409 to a conditional put while another one of the same name is under way; that one may still fail."""
    store, filesystem = faulty_store()

    def meanwhile() -> None:
        if other_wins:
            filesystem._put("/bucket/run/a", b"theirs", "create")

    filesystem.faults = [Fault("pipe_file", _s3("ConditionalRequestConflict", 409), also=meanwhile)]

    assert store.put_if_absent("a", b"ours") is not other_wins


@pytest.mark.parametrize("error", [_s3("PreconditionFailed", 412), FileExistsError()])
def test_a_race_that_the_server_decides_is_lost_without_another_try(error: Exception) -> None:
    store, filesystem = faulty_store()
    filesystem.faults = [Fault("pipe_file", error, also=lambda: filesystem._put("/bucket/run/a", b"theirs", "create"))]

    assert store.put_if_absent("a", b"ours") is False
    assert filesystem.calls.count("pipe_file") == 1


def test_on_a_store_that_ignores_the_condition_what_is_there_stays_and_the_probe_says_so() -> None:
    store, filesystem = faulty_store()
    filesystem.honours_condition = False

    assert store.probe_conditional_put() is False
    assert store.put_if_absent("a", b"first") is True
    assert store.put_if_absent("a", b"second") is False

    assert store.read("a") == b"first"
    assert [name for name in filesystem.store if "probe" in name] == []


def test_on_a_store_that_refuses_conditions_a_put_if_absent_looks_and_puts() -> None:
    store, filesystem = faulty_store()
    filesystem.faults = [Fault("pipe_file", _s3("NotImplemented", 501))]

    assert store.put_if_absent("a", b"first") is True
    assert store.put_if_absent("a", b"second") is False
    assert store.read("a") == b"first"


def test_a_failure_while_looking_is_never_taken_for_absence() -> None:
    store, filesystem = faulty_store(tries=1)
    _fill(store)
    filesystem.faults = [Fault("info", SLOW_DOWN)]

    with pytest.raises(StorageError):
        store.exists("folder/name")


def test_writers_that_race_on_a_failing_store_agree_on_one_winner() -> None:
    for _ in range(20):
        store, filesystem = faulty_store()
        filesystem.faults = [Fault("pipe_file", RESET, done_first=number % 2 == 0) for number in range(4)]
        wins: list[bytes] = []

        def write(data: bytes, store: ObjectStore = store, wins: list[bytes] = wins) -> None:
            if store.put_if_absent("a", data):
                wins.append(data)

        threads = [threading.Thread(target=write, args=(str(number).encode(),)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert wins == [store.read("a")]

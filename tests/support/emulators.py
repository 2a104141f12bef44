"""Object stores that run on this machine, started by the first test that asks and stopped with the session.

S3 is moto's server in a thread of this process, Google's is gcp-storage-emulator, Azure is Azurite, a Node program that
npm installs once into the user's cache. Each listens on 127.0.0.1 and a free port, and the drivers find it through
environment variables, as they find the real ones.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest

AZURITE_VERSION = "3.35.0"
#: Azurite's own, the same everywhere.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
#: Made by the tests: avbatch creates no bucket.
BUCKET = "avbatch-tests"


@dataclass(frozen=True, slots=True)
class StoreServer:
    """An emulator with one bucket."""

    protocol: str
    options: dict[str, Any] = field(default_factory=dict)
    """For `output.storage_options`."""

    def new_url(self) -> str:
        """A folder that nobody else uses."""
        return f"{self.protocol}://{BUCKET}/{uuid.uuid4().hex}"

    def make_bucket(self) -> None:
        fsspec.filesystem(self.protocol, use_listings_cache=False, **self.options).mkdir(BUCKET)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[StoreServer]:
    """An S3 that honours conditional puts."""
    moto_server = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        # Else moto lists its 190 folders to find the service, which is 40 % of a request's time.
        dispatcher = moto_server.DomainDispatcherApplication
        environment.setattr(dispatcher, "get_backend_for_host", lambda application, host: "s3")
        environment.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        store_server = StoreServer("s3")
        store_server.make_bucket()
        yield store_server
    server.stop()


@pytest.fixture(scope="session")
def gs_server() -> Iterator[StoreServer]:
    """A Google Cloud Storage that ignores `ifGenerationMatch`: two writers of one name are both told that they won."""
    pytest.importorskip("gcp_storage_emulator")
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "gcp_storage_emulator",
        "start",
        "--host=127.0.0.1",
        f"--port={port}",
        "--in-memory",
    ]
    with _started(command, port), pytest.MonkeyPatch.context() as environment:
        environment.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        store_server = StoreServer("gs", {"token": "anon"})
        store_server.make_bucket()
        yield store_server


@pytest.fixture(scope="session")
def abfs_server() -> Iterator[StoreServer]:
    """An Azure Blob Storage."""
    port = _free_port()
    command = [_azurite(), "--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    command += ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    with _started(command, port), pytest.MonkeyPatch.context() as environment:
        environment.setenv(
            "AZURE_STORAGE_CONNECTION_STRING",
            f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{AZURITE_ACCOUNT};",
        )
        store_server = StoreServer("abfs")
        store_server.make_bucket()
        yield store_server


def _azurite() -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avbatch-tests"
    folder = cache / f"azurite-{AZURITE_VERSION}"
    program = folder / "node_modules/.bin/azurite-blob"
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Azurite needs node and npm")
    if not program.exists():
        part = cache / f".{folder.name}-{uuid.uuid4().hex}"
        part.mkdir(parents=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(part)]
        done = subprocess.run([*command, f"azurite@{AZURITE_VERSION}"], capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(part)
            pytest.skip(f"npm could not install Azurite: {done.stderr.strip()[-200:]}")
        try:
            part.rename(folder)
        except OSError:  # another session was faster
            shutil.rmtree(part)
    return str(program)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _started(command: Sequence[str], port: int) -> Iterator[None]:
    """A program that listens on the port; ended when the block is left."""
    # Its log is dropped: clients that hang up early are tracebacks there.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    try:
        while not _listens(port):
            assert process.poll() is None, f"{command[0]} ended"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True

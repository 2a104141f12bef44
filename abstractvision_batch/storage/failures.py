"""What an object store's driver means by an exception: one place that knows s3fs, gcsfs and adlfs.

    EXISTS      a conditional put met an object: FileExistsError; OSError around botocore's PreconditionFailed
    MISSING     no such object, or no such bucket where something was written
    NO_BUCKET   the store said so itself: NoSuchBucket, ContainerNotFound
    DENIED      no credentials, wrong ones, or not enough
    TRANSIENT   timeouts, resets, 408 425 429 5xx, SlowDown, a put that collided with another (409): worth another try
    UNSUPPORTED the store does not know the condition of a conditional put (501)
    OTHER       everything else that a driver raises on purpose
    None        not from a driver: a bug, which travels on

Exceptions are told apart by class name and code, so no driver is imported here. The drivers' trees are not one: s3fs
translates to OSError and keeps botocore's error as the cause, gcsfs raises HttpError, ValueError and errors of aiohttp
and requests, adlfs lets most of azure-core through.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterator

from abstractvision_batch.errors import DamagedFileError, StorageError


class Failure(enum.Enum):
    """Kinds of failure that are answered differently."""

    EXISTS = "exists"
    MISSING = "missing"
    NO_BUCKET = "no bucket"
    DENIED = "denied"
    TRANSIENT = "transient"
    UNSUPPORTED = "unsupported"
    OTHER = "other"


#: Top-level packages whose exceptions are no driver's. fsspec has drivers by the dozen, each with its own client below.
NO_DRIVERS = {"abstractvision_batch", "builtins"}
#: gcsfs raises ValueError for a 400; fsspec's generic file systems raise NotImplementedError for what they lack.
DRIVER_BUILTINS = (OSError, EOFError, ValueError, NotImplementedError)
#: Codes of S3 and Azure, from the body of the answer.
CODES = {
    "PreconditionFailed": Failure.EXISTS,
    "BlobAlreadyExists": Failure.EXISTS,
    "ConditionalRequestConflict": Failure.TRANSIENT,
    "OperationAborted": Failure.TRANSIENT,
    "RequestTimeout": Failure.TRANSIENT,
    "SlowDown": Failure.TRANSIENT,
    "ServerBusy": Failure.TRANSIENT,
    "Throttling": Failure.TRANSIENT,
    "ThrottlingException": Failure.TRANSIENT,
    "RequestLimitExceeded": Failure.TRANSIENT,
    "NoSuchBucket": Failure.NO_BUCKET,
    "ContainerNotFound": Failure.NO_BUCKET,
    "NoSuchKey": Failure.MISSING,
    "BlobNotFound": Failure.MISSING,
    "NotImplemented": Failure.UNSUPPORTED,
    "NoSuchUpload": Failure.TRANSIENT,  # a multipart upload that another attempt or a lifecycle rule ended
}
STATUSES = {
    401: Failure.DENIED,
    403: Failure.DENIED,
    404: Failure.MISSING,
    412: Failure.EXISTS,
    501: Failure.UNSUPPORTED,
} | (dict.fromkeys((408, 425, 429, 500, 502, 503, 504, 509), Failure.TRANSIENT))
CLASSES = {
    "FileExistsError": Failure.EXISTS,
    "ResourceExistsError": Failure.EXISTS,
    "NotImplementedError": Failure.UNSUPPORTED,
    # credentials
    "PermissionError": Failure.DENIED,
    "NoCredentialsError": Failure.DENIED,
    "PartialCredentialsError": Failure.DENIED,
    "CredentialRetrievalError": Failure.DENIED,
    "TokenRetrievalError": Failure.DENIED,
    "UnauthorizedSSOTokenError": Failure.DENIED,
    "ProfileNotFound": Failure.DENIED,
    "ClientAuthenticationError": Failure.DENIED,
    "DefaultCredentialsError": Failure.DENIED,
    "RefreshError": Failure.DENIED,
    # the network; certificates that do not match stay that way
    "ClientConnectorCertificateError": Failure.OTHER,
    "ClientSSLError": Failure.OTHER,
    "InvalidURL": Failure.OTHER,
    "SSLCertVerificationError": Failure.OTHER,
    "TimeoutError": Failure.TRANSIENT,
    "FSTimeoutError": Failure.TRANSIENT,
    "Timeout": Failure.TRANSIENT,
    "ConnectionError": Failure.TRANSIENT,
    "ProxyError": Failure.TRANSIENT,
    "HTTPClientError": Failure.TRANSIENT,
    "EndpointConnectionError": Failure.TRANSIENT,
    "IncompleteRead": Failure.TRANSIENT,
    "IncompleteReadError": Failure.TRANSIENT,
    "ResponseParserError": Failure.TRANSIENT,
    "ResponseStreamingError": Failure.TRANSIENT,
    "ChunkedEncodingError": Failure.TRANSIENT,
    "ClientConnectionError": Failure.TRANSIENT,
    "ClientPayloadError": Failure.TRANSIENT,
    "ServiceRequestError": Failure.TRANSIENT,
    "ServiceResponseError": Failure.TRANSIENT,
    "ChecksumError": Failure.TRANSIENT,
    "TransportError": Failure.TRANSIENT,
    # last: the causes of a FileNotFoundError say more
    "FileNotFoundError": Failure.MISSING,
    "ResourceNotFoundError": Failure.MISSING,
}
#: What s3fs makes of codes that it does not keep, and what the operating system says of sockets.
ERRNOS = {
    errno.EBUSY, errno.EREMOTEIO, errno.EAGAIN, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED,
    errno.ECONNABORTED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN,
}  # fmt: skip

#: A bad block of a disk, or a folder where a file was.
LOST = {errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}


def classify(error: BaseException) -> Failure | None:
    """Which kind of failure an exception is; None where it is not a driver's."""
    if not _of_a_driver(error):
        return None
    chain = list(_chain(error))
    for look in (_by_code, _by_status, _by_class, _by_errno):
        for one in chain:
            if (failure := look(one)) is not None:
                return failure
    return Failure.OTHER


def is_lost(error: StorageError) -> bool:
    """Whether a file cannot be read because it is gone or damaged, not because its store is down or refuses."""
    cause = error.__cause__
    if isinstance(error, DamagedFileError) or cause is None:
        return True
    return classify(cause) is Failure.MISSING or (isinstance(cause, OSError) and cause.errno in LOST)


def is_transient(error: BaseException) -> bool:
    """Whether another try may succeed."""
    return classify(error) is Failure.TRANSIENT


def storage_error(where: str, error: BaseException, *, writing: bool = False) -> StorageError:
    """Return our error for what a driver raised; `raise ... from` it."""
    return StorageError(f"{where}: {explain(error, writing=writing)}", transient=is_transient(error))


def explain(error: BaseException, *, writing: bool) -> str:
    """One line for a person: what happened and what would do."""
    said = _said(error)
    match classify(error):
        case Failure.NO_BUCKET:
            return f"{said} (create the bucket or container, or fix its name: avbatch never creates one)"
        case Failure.MISSING if writing:
            return f"no such bucket or container: {said} (create it, or fix its name: avbatch never creates one)"
        case Failure.MISSING:
            return f"does not exist: {said}"
        case Failure.DENIED:
            return f"access denied: {said} (docs/storage.md says where credentials are looked for)"
        case _:
            return said


def _of_a_driver(error: BaseException) -> bool:
    packages = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    return isinstance(error, DRIVER_BUILTINS) or bool(packages - NO_DRIVERS)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__


def _by_code(error: BaseException) -> Failure | None:
    response = getattr(error, "response", None)
    body = response.get("Error", {}) if isinstance(response, dict) else {}
    code = getattr(error, "error_code", None)
    return CODES.get(str(body.get("Code"))) or CODES.get(str(getattr(code, "value", code)))


def _by_status(error: BaseException) -> Failure | None:
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    if metadata.get("HTTPStatusCode") in STATUSES:
        return STATUSES[metadata["HTTPStatusCode"]]
    for name in ("status_code", "status", "code"):
        status = str(getattr(error, name, None))
        if status.isdigit() and int(status) in STATUSES:
            return STATUSES[int(status)]
    # gcsfs: OSError("Forbidden: <url>\n<message>").
    return Failure.DENIED if isinstance(error, OSError) and str(error).startswith("Forbidden: ") else None


def _by_class(error: BaseException) -> Failure | None:
    names = [cls.__name__ for cls in type(error).__mro__]
    return next((CLASSES[name] for name in names if name in CLASSES), None)


def _by_errno(error: BaseException) -> Failure | None:
    return Failure.TRANSIENT if isinstance(error, OSError) and error.errno in ERRNOS else None


def _said(error: BaseException) -> str:
    """The first line of the message, without the request ids and XML that Azure adds below it."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next((line.strip() for line in str(text).splitlines() if line.strip()), type(error).__name__)

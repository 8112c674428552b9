"""`ObjectStore` on any S3, through boto3. The only module that knows boto3."""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from edge_agent.protocol.refusal import shown
from server.durable import sync_folder
from server.errors import (
    DigestMismatchError,
    ObjectNotFoundError,
    RegistryError,
    SettingsError,
    StorageRefusedError,
    StorageUnavailableError,
)
from server.settings import RegistrySettings
from server.storage.interface import ListedObject, StoredObject

CHUNK_BYTES: Final = 1024 * 1024
CONNECT_TIMEOUT_S: Final = 2.0
READ_TIMEOUT_S: Final = 5.0
# An answer to a write comes when all of it lies on the store's disks: 4 GiB at 15 MB/s. That the store is there at all
# was seen just before, by the question whether it has the object.
WRITE_TIMEOUT_S: Final = 300.0
# One repeat hides a connection that the server closed while idle; more would hide an outage for longer than 5 s.
MAX_ATTEMPTS: Final = 2
MAX_CONNECTIONS: Final = 16
# What is put again after so long becomes new: whoever sweeps old objects that nobody names must not take it away
# between the put and the naming. (A sweep leaves alone what is younger than two days.)
RENEW_AFTER_S: Final = 86400.0
PREFIX: Final = "objects/"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REFUSED = frozenset({"400", "401", "403"})


class _AlreadyThereError(RegistryError):
    """The conditional PUT met what is there already."""


class _NoSuchRangeError(RegistryError):
    """The range begins beyond the end of the object."""


_SPECIAL: Final[tuple[tuple[frozenset[str], type[RegistryError]], ...]] = (
    (frozenset({"404", "NoSuchKey", "NotFound"}), ObjectNotFoundError),
    (frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}), _AlreadyThereError),
    (frozenset({"416", "InvalidRange"}), _NoSuchRangeError),
)


def object_key(sha256: str) -> str:
    """Where an object lies in the bucket; two letters of its name spread the listing.

    Raises:
        ObjectNotFoundError: the text is no sha256, so that no object can have it as a name.
    """
    if not _SHA256.fullmatch(sha256):
        raise ObjectNotFoundError(f"{shown(sha256)} is not a sha256 in lower-case hexadecimal.")
    return f"{PREFIX}{sha256[:2]}/{sha256}"


class S3ObjectStore:
    """Objects in one bucket; conditional PUT makes every write idempotent. boto3 clients may be shared by threads."""

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        region: str,
        ca: Path | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._endpoint = endpoint
        self._bucket = bucket
        # A session of its own: boto3.client() shares a default session, which is not thread-safe to create from.
        session = boto3.session.Session(
            aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name=region
        )
        common = {"endpoint_url": endpoint, "verify": None if ca is None else str(ca)}
        self._client: Any = session.client("s3", config=_patience(read_timeout_s), **common)
        self._writer: Any = session.client("s3", config=_patience(WRITE_TIMEOUT_S), **common)

    @classmethod
    def from_settings(cls, settings: RegistrySettings) -> Self:
        """The store that the settings name.

        Raises:
            SettingsError: they name none (`up` fills this in for its children).
        """
        if not (settings.s3_endpoint and settings.s3_access_key and settings.s3_secret_key):
            raise SettingsError("No S3 is set: give s3_endpoint, s3_access_key and s3_secret_key, or run under `up`.")
        return cls(
            endpoint=settings.s3_endpoint,
            bucket=settings.s3_bucket,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key.get_secret_value(),
            region=settings.s3_region,
            ca=settings.s3_ca,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._writer.close()

    def ensure_bucket(self) -> None:
        """Create the bucket if it is not there; also proves that the keys are accepted."""
        try:
            with self._errors():
                self._client.head_bucket(Bucket=self._bucket)
        except ObjectNotFoundError:
            # Another process may have created it in between: a conflict is no error.
            with suppress(_AlreadyThereError), self._errors():
                self._client.create_bucket(Bucket=self._bucket)

    def put_bytes(self, content: bytes) -> StoredObject:
        """See ObjectStore."""
        digest = hashlib.sha256(content).hexdigest()
        created = self._put(digest, content, len(content))
        return StoredObject(digest, len(content), created)

    def put_file(self, path: Path) -> StoredObject:
        """See ObjectStore."""
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            created = self._put(digest, file, before.st_size)
            after = os.fstat(file.fileno())
        if created and (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            self.delete(digest)
            raise DigestMismatchError(
                expected_sha256=digest, actual_sha256="unknown: the file changed while it was read"
            )
        return StoredObject(digest, before.st_size, created)

    def get_bytes(self, sha256: str) -> bytes:
        """See ObjectStore."""
        content = b"".join(self._stream(sha256))
        _verify(sha256, hashlib.sha256(content).hexdigest())
        return content

    def get_range(self, sha256: str, start: int, length: int) -> bytes:
        """See ObjectStore."""
        if start < 0 or length <= 0:
            return b""
        key = object_key(sha256)
        try:
            with self._errors(sha256):
                reply = self._client.get_object(
                    Bucket=self._bucket, Key=key, Range=f"bytes={start}-{start + length - 1}"
                )
                with closing(reply["Body"]) as body:
                    return bytes(body.read())
        except _NoSuchRangeError:
            return b""

    def get_to_file(self, sha256: str, path: Path) -> int:
        """See ObjectStore."""
        digest = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(prefix=".get-", dir=path.parent)
        temporary = Path(name)
        size_bytes = 0
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in self._stream(sha256):
                    file.write(chunk)
                    digest.update(chunk)
                    size_bytes += len(chunk)
                file.flush()
                os.fsync(file.fileno())
            _verify(sha256, digest.hexdigest())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
        return size_bytes

    def exists(self, sha256: str) -> bool:
        """See ObjectStore."""
        try:
            self.size_bytes(sha256)
        except ObjectNotFoundError:
            return False
        return True

    def size_bytes(self, sha256: str) -> int:
        """See ObjectStore."""
        return self.describe(sha256).size_bytes

    def describe(self, sha256: str) -> ListedObject:
        """See ObjectStore."""
        with self._errors(sha256):
            reply = self._client.head_object(Bucket=self._bucket, Key=object_key(sha256))
        return ListedObject(sha256, int(reply["ContentLength"]), reply["LastModified"].timestamp())

    def list_objects(self) -> Iterator[ListedObject]:
        """See ObjectStore."""
        with self._errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=PREFIX)
            for page in pages:
                for entry in page.get("Contents", ()):
                    sha256 = entry["Key"].rpartition("/")[2]
                    if _SHA256.fullmatch(sha256):
                        yield ListedObject(sha256, int(entry["Size"]), entry["LastModified"].timestamp())

    def presign_get(self, sha256: str, expires_s: int) -> str:
        """See ObjectStore."""
        parameters = {"Bucket": self._bucket, "Key": object_key(sha256)}
        return str(self._client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=expires_s))

    def delete(self, sha256: str) -> None:
        """See ObjectStore."""
        with suppress(ObjectNotFoundError), self._errors(sha256):
            self._client.delete_object(Bucket=self._bucket, Key=object_key(sha256))

    def _put(self, digest: str, body: bytes | IO[bytes], size_bytes: int) -> bool:
        key = object_key(digest)
        # Asked first, so that pushing a large file again does not send it again.
        with suppress(ObjectNotFoundError):
            if time.time() - self.describe(digest).stored_at > RENEW_AFTER_S:
                self._renew(digest)
            return False
        try:
            with self._errors(digest):
                self._writer.put_object(
                    Bucket=self._bucket, Key=key, Body=body, ContentLength=size_bytes, IfNoneMatch="*"
                )
        except _AlreadyThereError:
            return False
        return True

    def _renew(self, digest: str) -> None:
        """Give an object today's date, without sending it: a copy onto itself."""
        key = object_key(digest)
        with self._errors(digest):
            source = {"Bucket": self._bucket, "Key": key}
            self._writer.copy_object(Bucket=self._bucket, Key=key, CopySource=source, MetadataDirective="REPLACE")

    def _stream(self, sha256: str) -> Iterator[bytes]:
        with self._errors(sha256):
            reply = self._client.get_object(Bucket=self._bucket, Key=object_key(sha256))
            with closing(reply["Body"]) as body:
                yield from body.iter_chunks(CHUNK_BYTES)

    @contextmanager
    def _errors(self, sha256: str = "") -> Iterator[None]:
        """Turn the errors of boto3 into ours."""
        try:
            yield
        except ClientError as exc:
            raise self._classified(exc, sha256) from exc
        except (BotoCoreError, HTTPError) as exc:
            raise StorageUnavailableError(
                f"S3 at {self._endpoint} does not answer ({type(exc).__name__}); is it running at that address?"
            ) from exc

    def _classified(self, exc: ClientError, sha256: str) -> RegistryError:
        code = str(exc.response.get("Error", {}).get("Code", ""))
        status = str(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        if code == "NoSuchBucket":
            return StorageUnavailableError(f"S3 at {self._endpoint} has no bucket {self._bucket!r}; restart `up`.")
        for codes, error in _SPECIAL:
            if {code, status} & codes:
                return error(f"S3 has no object {sha256}." if sha256 else f"S3 answers {code} for {self._bucket!r}.")
        if status in _REFUSED:
            return StorageRefusedError(f"S3 at {self._endpoint} refused the request ({code}); check the S3 keys.")
        return StorageUnavailableError(f"S3 at {self._endpoint} failed with {code or status}; try again.")


def _patience(read_timeout_s: float) -> Config:
    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=read_timeout_s,
        retries={"total_max_attempts": MAX_ATTEMPTS, "mode": "standard"},
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        max_pool_connections=MAX_CONNECTIONS,
    )


def _verify(expected_sha256: str, actual_sha256: str) -> None:
    if actual_sha256 != expected_sha256:
        raise DigestMismatchError(expected_sha256=expected_sha256, actual_sha256=actual_sha256)

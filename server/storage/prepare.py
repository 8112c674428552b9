"""One-shot process of `up`: wait until S3 takes our keys, create the bucket. Keeps boto3 out of the supervisor."""

import os
import sys
import time
from typing import Final

from server.errors import RegistryError, StorageUnavailableError
from server.settings import load_settings
from server.storage.s3 import S3ObjectStore

DEADLINE_S: Final = 30.0
PAUSE_S: Final = 0.1


def prepare(store: S3ObjectStore, *, deadline_s: float = DEADLINE_S) -> None:
    """Create the bucket and prove that it keeps what it is given, trying again while S3 is still starting.

    Raises:
        StorageUnavailableError: it did not answer in time.
        StorageRefusedError: it refuses the keys.
        ObjectNotFoundError: it took bytes and does not have them.
    """
    end_s = time.monotonic() + deadline_s
    while True:
        try:
            store.ensure_bucket()
            # SeaweedFS answers before its volumes can be read or grown (an InternalError, seen in 4.48): so a real
            # object goes in and out, of new bytes each time, since another process may do the same.
            probe = store.put_bytes(os.urandom(32))
            store.get_bytes(probe.sha256)
            store.delete(probe.sha256)
        except StorageUnavailableError:
            if time.monotonic() > end_s:
                raise
            time.sleep(PAUSE_S)
        else:
            return


def main() -> int:
    """Prepare the store that the settings name."""
    try:
        store = S3ObjectStore.from_settings(load_settings())
        prepare(store)
    except RegistryError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Objects by sha256. `ObjectStore` is what the rest of the registry sees; S3 is behind it."""

from server.storage.interface import ObjectStore, StoredObject
from server.storage.s3 import S3ObjectStore

__all__ = ["ObjectStore", "S3ObjectStore", "StoredObject"]

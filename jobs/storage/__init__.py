"""Where data and results lie: an address, what is read and written there, and what an error of it means."""

from jobs.storage.address import absolute, below, is_submitted, redacted, shown
from jobs.storage.failure import StorageError, first_line, storage_errors
from jobs.storage.files import OBJECT_STORES, open_storage, parquet_files, write_atomically, write_table

__all__ = [
    "OBJECT_STORES",
    "StorageError",
    "absolute",
    "below",
    "first_line",
    "is_submitted",
    "open_storage",
    "parquet_files",
    "redacted",
    "shown",
    "storage_errors",
    "write_atomically",
    "write_table",
]

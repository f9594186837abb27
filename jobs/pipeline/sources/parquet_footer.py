"""Footers of Parquet files that would take far more memory than they have bytes: pyarrow makes a kilobyte of three of them."""

import subprocess
import sys

from jobs.storage.failure import Damaged
from jobs.storage.files import SteadyFile

SMALL_BYTES = 256 * 2**10  # Footers of no more are read as they are: the worst takes 70 MB. One of ImageNet's shards has 10 KB.
MOST_MEMORY = 2**30
"""Bytes that reading a footer may take. 10,000 row groups of three columns, 3 MB as pyarrow writes them, take 36 MB."""
MOST_SECONDS = 60
READ = f"""
import io, resource, sys
import pyarrow.parquet as pq
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + {MOST_MEMORY}
resource.setrlimit(resource.RLIMIT_AS, (most, most))
pq.read_metadata(io.BytesIO(sys.stdin.buffer.read()))
"""


def check_footer(file: SteadyFile) -> None:
    """Read a large footer in a process that may take so much memory and time, and no more; raise Damaged if that fails.

    What is no Parquet file passes: reading it says what it is.
    """
    length = int.from_bytes(file.read_at(4, max(file.size - 8, 0)), "little")
    if not SMALL_BYTES < length <= file.size - 8:
        return
    footer = b"PAR1" + file.read_at(length + 8, file.size - 8 - length)
    told = f"its footer of {length:,} bytes cannot be read in {MOST_MEMORY >> 30} GiB of memory and {MOST_SECONDS} s"
    try:
        done = subprocess.run([sys.executable, "-I", "-c", READ], input=footer, capture_output=True, timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        raise Damaged(told) from None
    if done.returncode:
        raise Damaged(f"{told} ({(done.stderr.decode(errors='replace').strip().splitlines() or ['it was killed'])[-1]})")

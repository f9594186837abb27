"""`ray start` with the arguments given, and workers that are forked: python -m cluster.start_ray --head ..."""

from __future__ import annotations

from ray.scripts.scripts import start

from jobs.running.workers.forked import forked_workers

if __name__ == "__main__":
    with forked_workers():
        start.main(prog_name="ray start")

"""A cluster of one host for tests: python -m tests.head '{"num_cpus": 2}' prints its address and serves until its input ends.

It is started as a job starts Ray on its own machine: a dashboard, agents and Ray's client server would cost more CPU time than a
short job does. The tests in tests/cluster and tests/rig start theirs as operators do.
"""

from __future__ import annotations

import json
import os
import sys

from jobs.running.ray_home import ray_home
from jobs.running.session import OWN_RAY

if __name__ == "__main__":
    os.environ.update({f"RAY_{name}": value for name, value in OWN_RAY.items()})
    with ray_home() as home:
        import ray  # after the fork server was started, so that both load it at once

        from jobs.running.local_ray import local_ray

        quiet = {"logging_level": "CRITICAL", "log_to_driver": False}
        with local_ray(home, object_store_memory=1_500_000_000, **quiet, **json.loads(sys.argv[1])):
            print(ray.get_runtime_context().gcs_address, flush=True)
            sys.stdin.read()

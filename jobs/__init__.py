"""What a user submits, and the pipeline and reports behind it. `jobs.classify` is `python -m jobs.imagenet` from Python."""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.imagenet import classify as classify

# What was asked of a host that is lost would otherwise be waited for for up to five minutes. Ray reads this when it is first
# imported. A cluster from cluster/start-node.sh looks every 10 s; every minute is as often as any other cluster allows.
os.environ.setdefault("RAY_grpc_client_keepalive_time_ms", "60000")
os.environ.setdefault("RAY_grpc_client_keepalive_timeout_ms", "20000")

# numpy's linear algebra serves small matrices of plots here: its second thread would only burn a core beside the work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if sys.argv[0] == "-m":  # `python -m jobs.<command>`: before its imports, during which a signal would end in a traceback
    from jobs.running.start import begin

    begin()


def __getattr__(name: str) -> Any:
    if name == "classify":  # imports what computes, which other users of this package do not need
        from jobs.imagenet import classify

        return classify
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

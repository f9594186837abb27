"""What a user submits, and the pipeline and reports behind it."""

import os

# A request to a host that has just been lost would otherwise wait two to three minutes for its answer. Ray reads this when it
# is first imported, in the driver; cluster/start-node.sh sets it for the hosts.
os.environ.setdefault("RAY_grpc_client_keepalive_timeout_ms", "10000")

"""The run's ledgers: opened by the driver, one for each stream, and added up to one account."""

import hashlib
import time
from functools import cache
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.pipeline.ledger import Ledger
from jobs.pipeline.ray_internals import draining_nodes
from jobs.running.output_lock import busy
from jobs.storage.files import open_storage

NAMESPACE = "loudbox-vit"
NAME_SECONDS = 10.0
"""How long a ledger's name may be taken by a driver that was killed a moment ago; Ray notices within a second or two."""
ACCOUNT_SECONDS = 20.0  # Limit for the last question to a ledger, of a cluster that may be failing
DRAINS = "is being drained; its mesh ends what it has begun, and the run goes on with others or waits for one to join"


def open_ledger(out: str) -> Any:
    """The ledger actor of the run in `out`; raises UserError while another run has it.

    Its name excludes other drivers on the cluster, as `hold_output` does those that share the disk or the bucket; an actor may
    outlive both for a moment.
    """
    _seen.clear()
    filesystem, path = open_storage(out)
    name = "run-" + hashlib.sha256(f"{filesystem.type_name}:{path}".encode()).hexdigest()[:32]
    limit = time.monotonic() + NAME_SECONDS
    while True:
        try:
            return start_ledger(name=name, namespace=NAMESPACE)
        except ValueError:
            if time.monotonic() > limit:
                raise busy(out) from None
        time.sleep(0.2)


def start_ledger(index: int = 0, of: int = 1, **options: Any) -> Any:
    """The ledger of a run's stream, among so many. options: Ray's."""
    # On the driver's own host: the loss of any other must not take the ledger with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Ledger).options(num_cpus=0, scheduling_strategy=here, **options).remote(index, of)


def ended(*ledgers: Any) -> bool:
    """Whether the process of one of the ledgers is known to have ended."""
    try:
        ray.get([ledger.is_draining.remote() for ledger in ledgers], timeout=ACCOUNT_SECONDS)
    except (ray.exceptions.RayError, ConnectionError) as error:
        return isinstance(error, ray.exceptions.RayActorError)
    return False


def pace(*ledgers: Any) -> dict[str, int]:
    """How far the run is (Ledger.pace); empty where the cluster is gone."""
    try:
        each = ray.get([ledger.pace.remote() for ledger in ledgers], timeout=ACCOUNT_SECONDS)
    except (ray.exceptions.RayError, ConnectionError):
        return {}
    return {name: sum(found[name] for found in each) for name in each[0]}


_draining = cache(draining_nodes)
_seen: dict[str, dict[str, Any]] = {}
"""An event for each host that was seen to be drained, by Ray's ids."""


def settle(*ledgers: Any) -> dict[str, Any]:
    """The ledgers' account, for the manifest; empty where the cluster is gone, and the ledgers with it."""
    account: dict[str, Any]
    try:
        names = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        ask = _draining()
        for node in (ask() if ask else set()) - set(_seen):
            _seen[node] = {"at": time.time(), "kind": "host", "where": names.get(node, node), "what": DRAINS}
        account, *others = ray.get([ledger.account.remote(set(names)) for ledger in ledgers], timeout=ACCOUNT_SECONDS)
    except (ray.exceptions.RayError, ConnectionError):
        return {}
    for other in others:
        for key, value in other.items():
            if key == "opened_at":
                account[key] = min(filter(None, (account[key], value)), default=None)
            elif isinstance(value, dict):
                account[key] |= value
            else:
                account[key] += value
    for each in ("lost_hosts", "meshes", "not_open"):
        account[each] = sorted(set(account[each]))
    account["events"] = sorted([*account["events"], *_seen.values()], key=lambda event: event["at"])
    return account

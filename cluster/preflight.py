"""Is this host, or the whole cluster, ready to classify? One line a check: pass, warn or fail with the fix.

python -m cluster.preflight [--address HOST:PORT] [--shared URI] [--data URI] [--open] [--json]
"""

# PYTHON_ARGCOMPLETE_OK
import argparse
import json
import sys
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.checks import Check, check_cluster, check_host
from cluster.hosts import ClusterHosts, Hosts, ThisHost
from cluster.probe import read_first_image, read_marks, remove_mark, try_mesh, write_mark
from jobs.running.command import JobFailed, Parser, run
from jobs.running.session import ray_session
from jobs.storage.address import absolute
from vit_actor.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from vit_actor.opening import DeviceRequest

STORAGE_SECONDS = 60.0  # Limit for reading or writing one small file; a mount that hangs must not hang the preflight


def main(arguments: list[str] | None = None, root: Path = Path("/")) -> int:
    """Exit code 0 if nothing failed (warnings are printed, not counted), 1 if something did; 2 is a user's mistake.

    root: where this host's /dev, /sys and /proc are read.
    """
    args = parse(arguments)
    request = DeviceRequest.of(load_checkpoint(args.model), "t3000", open_seconds=args.open_limit) if args.open else None
    with ray_session(args.address) if args.address else nullcontext():
        report = examine(ClusterHosts() if args.address else ThisHost(root), args, request)
    ready = all(check.status != "fail" for checks in report.values() for check in checks)
    if args.json:
        print(json.dumps({"ready": ready, "checks": {place: [asdict(c) for c in checks] for place, checks in report.items()}}))
    else:
        print(table(report))
    if why := getattr(getattr(sys.stdout, "buffer", None), "lost", None):
        raise JobFailed(f"the result cannot be written to standard output: {why}")
    return 0 if ready else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser("cluster.preflight", __doc__)
    add = parser.add_argument
    add("--address", help="look at every host of this Ray cluster, host:port (default: this host alone, without Ray)")
    add("--boards", type=int, default=4, metavar="N", help="PCIe boards a mesh takes (default: 4, a T3000); 0 expects none")
    add("--shared", type=absolute, metavar="URI", help="directory all hosts must read and write, such as the place for --out")
    add("--data", type=absolute, metavar="URI", help="data set all hosts must read")
    add("--open", action="store_true", help="open every mesh and classify one batch; waits for boards that a job holds")
    add("--model", default=DEFAULT_CHECKPOINT, help="checkpoint for --open (default: %(default)s)")
    add("--open-limit", type=float, default=600, metavar="S", help="seconds a mesh may take to open (default: %(default)s)")
    add("--json", action="store_true", help="one JSON object instead of the table")
    args = parser.parsed(arguments)
    if args.boards < 0:
        parser.error(f"--boards {args.boards}: give 0 or more")
    return args


def examine(hosts: Hosts, args: argparse.Namespace, request: DeviceRequest | None) -> dict[str, list[Check]]:
    """All checks by host name, those of the whole under "cluster"."""
    names = [host.name for host in hosts.hosts]
    report = {host.name: check_host(host, args.boards) for host in hosts.hosts}
    more = [hosts.clocks]
    if args.shared:
        more.append(share(args.shared, hosts))
    if args.data:
        more.append(hosts.ask("data", read_first_image, dict.fromkeys(names, (args.data,)), STORAGE_SECONDS))
    if request:
        meshes = [
            host.name
            for host in hosts.hosts
            if min(len(host.boards), host.ray_boards if host.ray_boards is not None else args.boards) >= args.boards > 0
        ]
        given = dict.fromkeys(meshes, (request, args.open_limit))
        # A little longer than the limit inside, so that its own message arrives.
        more.append(hosts.ask("open mesh", try_mesh, given, args.open_limit + STORAGE_SECONDS, boards=args.boards))
    for checks in more:
        for name, check in checks.items():
            report[name].append(check)
    report |= {name: [check] for name, check in hosts.silent.items()}
    return report | {"cluster": check_cluster(hosts.hosts, args.boards)}


def share(uri: str, hosts: Hosts) -> dict[str, Check]:
    """Every host writes a file of its own, then reads everyone's: a directory that is not shared lacks the others'."""
    marks = {host.name: f"preflight-{uuid.uuid4().hex}" for host in hosts.hosts}

    def ask(function: Callable[..., Check], given: dict[str, tuple[Any, ...]]) -> dict[str, Check]:
        return hosts.ask("shared storage", function, given, STORAGE_SECONDS)

    checks = ask(write_mark, {name: (uri, mark) for name, mark in marks.items()})
    written = {name: mark for name, mark in marks.items() if checks[name].status == "pass"}
    checks |= ask(read_marks, {name: (uri, list(written.values())) for name in written})
    ask(remove_mark, {name: (uri, mark) for name, mark in written.items()})
    return checks


def table(report: dict[str, list[Check]]) -> str:
    """The report as text: a block a host, one line a check, its fix below it."""
    lines = []
    for place, checks in report.items():
        lines.append(place)
        for check in checks:
            status = check.status.upper() if check.status == "fail" else check.status
            lines.append(f"  {status}  {check.name:16} {check.found}")
            lines += [f"  {'':22} -> {check.fix}"] if check.fix else []
    every = [check.status for checks in report.values() for check in checks]
    lines.append(f"{every.count('pass')} passed, {every.count('warn')} warned, {every.count('fail')} failed")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)

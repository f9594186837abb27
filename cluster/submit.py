"""Submit a job of this project to a Ray cluster, follow its log, and end with its own exit code.

python -m cluster.submit [--address URL] [--detach] jobs.imagenet --data URI --out URI ...

`ray job submit` does the same but for two things: it ends with 1 for every failure, and an address where nothing answers
holds it for minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import signal
import sys
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from jobs.running.command import STOPPED, run
from vit_actor.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent
DASHBOARD = "http://127.0.0.1:8265"
"""Where `ray dashboard` and an SSH tunnel put the head's job server."""

CONNECT_SECONDS = 5.0
END_SECONDS = 30.0
"""Limit between the end of a job's log and the server's verdict."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code: the job's own; 143 if it was stopped, 1 if it ended without a code, 2 if it could not be submitted."""
    parser = argparse.ArgumentParser(prog="python -m cluster.submit", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    default = os.environ.get("RAY_API_SERVER_ADDRESS", DASHBOARD)
    add(
        "--address",
        default=default,
        metavar="URL",
        help="job server of the head (default: RAY_API_SERVER_ADDRESS, else %(default)s)",
    )
    add("--detach", action="store_true", help="return once the job is submitted, instead of following its log")
    add("module", help="what to run, such as jobs.imagenet")
    add("arguments", nargs=argparse.REMAINDER, help="its arguments")
    args = parser.parse_args(arguments)
    client = connect(args.address)
    logging.disable(logging.WARNING)  # or Ray tells at length which files it does not upload
    entrypoint = shlex.join(["python", "-m", args.module, *args.arguments])
    # The server's copy of this directory is cached by its content: a second job uploads nothing.
    try:
        job = client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": str(PROJECT)})
    except RuntimeError as error:  # what the server answers instead of taking the job
        reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"--address {args.address}: the job server did not take the job: {reason}") from None
    hints = f"ray job logs --follow {job}   or   ray job stop {job}"
    print(f"{job}: {entrypoint}", file=sys.stderr)
    if args.detach:
        print(hints, file=sys.stderr)
        return 0
    try:
        return asyncio.run(follow(client, job))
    except KeyboardInterrupt:
        print(f"{job} goes on: {hints}", file=sys.stderr)
        return 128 + signal.SIGINT


def connect(address: str) -> JobSubmissionClient:
    """A client for the job server at a URL. Raises UserError, within seconds, where none answers or it refuses the token."""
    try:
        urlopen(f"{address}/api/version", timeout=CONNECT_SECONDS).close()
    except HTTPError:
        pass  # it answers: that the question came without a token is for the client, which sends it
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"--address {address}: no job server answers ({reason}); open `ray dashboard cluster/loudboxes.yaml` or an SSH tunnel"
        ) from None
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise UserError(
            f"--address {address}: {reason}; set RAY_AUTH_MODE=token and copy the cluster's token to ~/.ray/auth_token"
        ) from None


async def follow(client: JobSubmissionClient, job: str) -> int:
    """Print the job's log until it ends; its exit code."""
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)
    for _ in range(int(END_SECONDS * 5)):
        if (status := client.get_job_status(job)).is_terminal():
            break
        await asyncio.sleep(0.2)
    info = client.get_job_info(job)
    if status == JobStatus.STOPPED:
        return STOPPED
    if info.driver_exit_code is None and status != JobStatus.SUCCEEDED:
        print(f"{job}: {status.value.lower()}: {info.message}", file=sys.stderr)
        return 1
    return info.driver_exit_code or 0


if __name__ == "__main__":
    run(main)

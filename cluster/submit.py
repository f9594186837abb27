"""Submit a job of this project to a Ray cluster, follow its log, and end with its own exit code.

python -m cluster.submit [--address URL] [--detach | --retries N] jobs.imagenet --data URI --out URI ...

`ray job submit` does the same but for some things: it ends with 1 for every failure, also where it loses the job's log while the
job goes on; an address where nothing answers holds it for minutes; and it uploads all that lies in the directory.
"""

# PYTHON_ARGCOMPLETE_OK
from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import shlex
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Lock, Thread
from urllib.error import HTTPError
from urllib.request import urlopen

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.package import pack
from jobs.running.command import STOPPED, TOO_MANY_ERRORS, USER_ERROR, JobFailed, Parser, run
from jobs.running.stopping import left_behind, say_when_stopped
from jobs.running.terminal import one_line, say
from jobs.storage.address import redacted, shown
from jobs.storage.known_secrets import credentials_in, without_secrets
from vit_actor.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent
DASHBOARD = "http://127.0.0.1:8265"  # Where `ray dashboard` and an SSH tunnel put the head's job server
RESUMES = "jobs.imagenet"  # The job that goes on with what it has committed; another begins again
CONNECT_SECONDS = 5.0
START_SECONDS = 60.0  # How long a head that has just started may take no jobs
UPLOAD_SECONDS = 600.0
ANSWER_SECONDS = 10.0
POLL_SECONDS = 5.0  # Between two questions how the job is
QUIET_SECONDS = 30.0  # After so long without a word from the log's stream, the log is asked for: the stream may be dead
LOST_SECONDS = 120.0  # How long a server that was there may not answer: a head or a tunnel is started again meanwhile
TOLD_AFTER = 5.0
END_SECONDS = 5.0  # Limit for the end of a job's log, once the job has ended
RETRY_SECONDS, MOST_RETRY_SECONDS = 10.0, 600.0  # Before the first retry, and at most: each wait is twice the one before
FINAL = (0, USER_ERROR, TOO_MANY_ERRORS, 4)  # Exit codes of a job that is done, and of one that would end so again


def main(arguments: list[str] | None = None) -> int:
    """Exit code: the job's own; 143 if it was stopped, 1 if it ended without a code, 2 if it could not be submitted.

    Raises UserError for arguments that contradict each other, and for credentials in a job's arguments.
    """
    parser = Parser("cluster.submit", __doc__, "[options] module [its arguments]")
    add = parser.add_argument
    default = os.environ.get("RAY_API_SERVER_ADDRESS") or DASHBOARD
    told = "job server of the head (default: RAY_API_SERVER_ADDRESS, else %(default)s)"
    add("--address", default=default, metavar="URL", help=told)
    add("--detach", action="store_true", help="return once the job is submitted, instead of following its log")
    again = "start the job again, jobs.imagenet with --resume, up to N times: after every end but exit codes 0, 2, 3 and 4, "
    again += "and after a lost connection (default: %(default)s)"
    add("--retries", type=int, default=0, metavar="N", help=again)
    add("module", help="what to run, such as jobs.imagenet")
    add("arguments", nargs=argparse.REMAINDER, help="its arguments")
    args = parser.parsed(arguments)
    replaces = args.retries and args.module == RESUMES and "--overwrite" in args.arguments
    for wrong, told in (
        (not re.fullmatch(r"\w+(\.\w+)*", args.module), f"{args.module}: no module of this project, such as jobs.imagenet"),
        (not re.match("https?://", args.address), f"--address {args.address}: give the job server's URL, such as {DASHBOARD}"),
        (args.detach and args.retries, "--retries needs to follow the job, so leave out --detach"),
        (replaces, "--retries with --overwrite: a retry could resume the run that was to be replaced; give another --out"),
    ):
        if wrong:
            raise UserError(told)
    for word in args.arguments:
        if credentials_in(word) or without_secrets(word) != word:
            fix = "leave them out, and set them in the environment of the cluster's nodes"
            raise UserError(f"{shown(word)}: the credentials in it would be kept in the cluster's list of jobs; {fix}")
    with TemporaryDirectory(prefix="loudbox-") as folder:
        left_behind.append(Path(folder))
        package = pack(PROJECT, args.module, args.arguments, Path(folder))
        client = connect(args.address)
        logging.disable(logging.WARNING)  # or Ray tells at length what it uploads
        return run_to_its_end(client, args, package)


def run_to_its_end(client: JobSubmissionClient, args: argparse.Namespace, package: Path) -> int:
    """Submit the job and follow it, again as often as --retries allows; the exit code of the last time.

    A job whose end is not known is submitted again under its own id, so that only a server that has lost it starts it anew.
    """
    name, starts, retry = f"raysubmit_{uuid.uuid4().hex[:16]}", 1, 0
    log: Log | None = None
    while True:
        job = name if starts == 1 else f"{name}-{starts}"
        resume = retry > 0 and args.module == RESUMES and "--resume" not in args.arguments
        entrypoint = shlex.join(["python", "-m", args.module, *args.arguments, *["--resume"] * resume])
        hints = f"ray job logs --follow {job}   or   ray job stop {job}"
        try:
            # A log of another job: the server took this one, and its answer was lost.
            if submit(client, args.address, job, entrypoint, package) or log is None or log.job != job:
                say(f"{job}: {entrypoint}", sys.stderr)
                if args.detach:
                    say(hints, sys.stderr)
                    return 0
                if args.retries:
                    say(f"before `ray job stop {job}`, end this command, or the job is started again", sys.stderr)
                if log:
                    log.ended = True
                log = Log(client, job)
            say_when_stopped(f"{job} goes on: {hints}")
            code = follow(log)
            # What once ran is no mistake: the cluster is not whole again yet, or the job had not begun its run.
            again = code == USER_ERROR and retry > 0 and args.module == RESUMES
            if (code in FINAL and not again) or retry >= args.retries:
                return code
            told, starts = f"{job} ended with exit code {code}", starts + 1
        except (JobFailed, UserError) as error:
            if retry >= args.retries or log is None:
                raise
            told = str(error)
        seconds, retry = min(RETRY_SECONDS * 2**retry, MOST_RETRY_SECONDS), retry + 1
        say_when_stopped(f"no retry of {job}; what it has committed stays")
        say(f"{told}; retry {retry} of {args.retries} in {seconds:g} s, Ctrl-C ends this", sys.stderr)
        time.sleep(seconds)


def connect(address: str) -> JobSubmissionClient:
    """A client for the job server at a URL. Raises UserError, within seconds, where none answers or it refuses the token."""
    try:
        urlopen(f"{address}/api/version", timeout=CONNECT_SECONDS).close()
    except HTTPError:
        pass  # it answers: that the question came without a token is for the client, which sends it
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        fix = "open `ray dashboard cluster/loudboxes.yaml` or an SSH tunnel"
        raise UserError(f"--address {address}: no job server answers ({reason}); {fix}") from None
    try:
        return ask(lambda: JobSubmissionClient(address), ANSWER_SECONDS)
    except AuthenticationError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
        fix = "set RAY_AUTH_MODE=token and copy the cluster's token to ~/.ray/auth_token"
        raise UserError(f"--address {address}: {reason}; {fix}") from None
    except Exception as error:
        told = f"what answers is no job server ({_line(error)})"
        raise UserError(f"--address {address}: {told}; give the dashboard's URL") from None


def submit(client: JobSubmissionClient, address: str, job: str, entrypoint: str, package: Path) -> bool:
    """Start a job under an id that the server may know already: whether it did not. Asks again until the server is ready.

    Raises UserError where it does not take the job.
    """
    # The server's copy of the package is cached by its content: a second job uploads nothing.
    what = {"entrypoint": entrypoint, "submission_id": job, "runtime_env": {"working_dir": str(package)}}
    began, told = time.monotonic(), False
    while True:
        try:
            ask(lambda: client.submit_job(**what), UPLOAD_SECONDS)
            return True
        except (RuntimeError, OSError, TimeoutError) as error:  # what it answers instead, or no answer
            reason, waited = _line(error), time.monotonic() - began
            if "already exists" in str(error):
                return False
            later = "available agent" in str(error) or not isinstance(error, RuntimeError)
            if not later or waited > START_SECONDS:
                raise UserError(f"--address {address}: the job server did not take the job: {reason}") from None
            if not told:
                say(f"the job server takes no jobs yet ({reason}); asking for {START_SECONDS:g} s at most", sys.stderr)
            told = True
            time.sleep(1)


def follow(log: Log) -> int:
    """Print the job's log until the server says that it has ended; its exit code.

    Raises JobFailed where the server does not know the job any more, or does not answer for LOST_SECONDS.
    """
    client, job = log.client, log.job
    answered = begun = time.monotonic()
    told: set[str] = set()
    while True:
        try:
            info = ask(lambda: client.get_job_info(job), ANSWER_SECONDS)
        except Exception as error:  # of every kind: what is between here and the server may answer instead of it
            silent, unknown = time.monotonic() - answered, "does not exist" in str(error)
            if unknown or silent > LOST_SECONDS:
                reason = "the server does not know it any more" if unknown else f"no answer for {silent:.0f} s, {_line(error)}"
                lost = JobFailed(f"{job}: {reason}")
                again = f"`ray job status {job}`, or --resume with its --out, once the cluster is back"
                lost.add_note(f"it may go on or have ended: {again}")
                raise lost from None
            if silent > TOLD_AFTER and "silent" not in told:
                told.add("silent")
                say(f"the job server does not answer ({_line(error)}); asking for {LOST_SECONDS:g} s at most", sys.stderr)
        else:
            answered = time.monotonic()
            told.discard("silent")
            if info.status.is_terminal():
                log.ended = True
                break
            if info.status == JobStatus.PENDING and answered - begun > TOLD_AFTER and "pending" not in told:
                told.add("pending")
                say(f"{job} waits to be started, which Ray gives up after 15 minutes: {info.message}", sys.stderr)
            log.catch_up(QUIET_SECONDS)
        log.stopped.wait(POLL_SECONDS)
        log.stopped.clear()
    log.stopped.wait(END_SECONDS)
    log.catch_up()
    code = info.driver_exit_code
    if info.status == JobStatus.STOPPED:
        return STOPPED
    if info.status == JobStatus.FAILED and code in (None, 0):
        say(f"{job}: {info.status.value.lower()}: {info.message}", sys.stderr)
        return 1
    return 0 if info.status == JobStatus.SUCCEEDED else (code if code >= 0 else 128 - code)


class Log:
    """A job's log on standard output, each character once, from wherever it comes. stopped: is set whenever its stream ends.

    ended: nobody needs the rest of its stream.
    """

    def __init__(self, client: JobSubmissionClient, job: str) -> None:
        self.client, self.job, self.ended = client, job, False
        self._printed, self._heard, self._lock = 0, time.monotonic(), Lock()
        self.stopped = Event()
        Thread(target=lambda: asyncio.run(self._stream()), daemon=True).start()

    async def _stream(self) -> None:
        """Follow it, from its beginning again whenever the connection ends."""
        while not self.ended:
            at = 0
            with suppress(Exception):  # the job goes on without it
                async for text in self.client.tail_job_logs(self.job):
                    self._print(at, text)
                    at += len(text)
            self.stopped.set()
            await asyncio.sleep(POLL_SECONDS)

    def catch_up(self, quiet: float = 0.0) -> None:
        """Ask for the log where the stream has said nothing for so many seconds."""
        if time.monotonic() - self._heard >= quiet:
            with suppress(Exception):
                self._print(0, ask(lambda: self.client.get_job_logs(self.job), ANSWER_SECONDS))

    def _print(self, at: int, text: str) -> None:
        with self._lock:
            self._heard = time.monotonic()
            print(redacted(text[max(0, self._printed - at) :]), end="", flush=True)
            self._printed = max(self._printed, at + len(text))


def ask[R](question: Callable[[], R], seconds: float) -> R:
    """The answer; raises TimeoutError where none comes: the client itself waits for ever."""
    answer: Future[R] = Future()

    def wait() -> None:
        try:
            answer.set_result(question())
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=wait, daemon=True).start()
    return answer.result(seconds)


def _line(error: Exception) -> str:
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[-1])


if __name__ == "__main__":
    run(main)

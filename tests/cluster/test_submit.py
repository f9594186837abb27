"""Jobs on a real job server with token authentication: logs, exit codes, stopping, what is uploaded, and who is refused."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from ray.job_submission import JobStatus

from cluster.submit import follow, main
from tests.commands import ROOT, Finished, run_module
from tests.conftest import free_port
from tests.waiting import wait_until

RAY = str(Path(sys.executable).parent / "ray")
START_SECONDS = 90


@dataclass(frozen=True)
class JobServer:
    environment: dict[str, str]
    """Of a client: address, token and a home of its own."""

    def submit(self, *arguments: str, **environment: str) -> Finished:
        return run_module("cluster.submit", *arguments, environment=self.environment | environment, timeout=100)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    directory = tmp_path_factory.mktemp("job-server")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "HOME": str(directory),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # the job's `python` is the node's
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    dashboard = free_port()
    options = [f"--port={free_port()}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"]
    options += ["--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--object-store-memory=500000000"]
    with open(directory / "log", "w") as log:
        head = subprocess.Popen(
            [RAY, "start", "--head", "--block", *options, "--disable-usage-stats"],
            env=environment,
            cwd=directory,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_until(lambda: answers(address), START_SECONDS)
        yield JobServer(environment | {"RAY_API_SERVER_ADDRESS": address})
    finally:
        os.killpg(head.pid, signal.SIGKILL)  # asked politely, it takes its time
        head.wait()


def answers(address: str) -> bool:
    try:
        urlopen(f"{address}/api/version", timeout=5)
    except HTTPError:  # alive, and asks for the token
        return True
    except URLError:
        pass
    return False


def test_a_job_runs_to_its_report_and_its_log_arrives(server: JobServer, tmp_path: Path) -> None:
    sample = ("--data", "jobs/sample/images", "--model", "jobs/sample/model", "--limit", "64", "--device", "cpu")
    done = server.submit("jobs.imagenet", *sample, "--out", str(tmp_path / "out"))
    assert done.code == 0, done.output
    assert "top-1" in done.stdout
    assert (tmp_path / "out/report.html").is_file()


def test_a_job_that_a_user_got_wrong_ends_with_its_own_code_and_line(server: JobServer) -> None:
    done = server.submit("jobs.report", "--out", "/nowhere")
    assert done.code == 2, done.output
    assert re.search(r"^error: .*/nowhere", done.stdout, re.MULTILINE)


@contextmanager
def followed(server: JobServer) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A job that serves until it is stopped: who follows it, once it runs, and its id."""
    command = [sys.executable, "-m", "cluster.submit", "http.server", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    follower = subprocess.Popen(command, cwd=ROOT, env=server.environment | {"PYTHONUNBUFFERED": "1"}, **pipes)  # type: ignore[call-overload]
    assert follower.stderr
    job = follower.stderr.readline().partition(":")[0]
    try:
        assert any("Serving HTTP" in line for line in follower.stdout)
        yield follower, job
    finally:
        follower.kill()
        follower.communicate()
        ray_job(server, "stop", "--no-wait", job)


def ray_job(server: JobServer, *arguments: str) -> str:
    done = subprocess.run([RAY, "job", *arguments], env=server.environment, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_stopping_a_job_ends_the_one_who_follows_it_with_143(server: JobServer) -> None:
    with followed(server) as (follower, job):
        ray_job(server, "stop", job)
        assert follower.wait(30) == 143


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running_and_says_how_to_get_back(server: JobServer) -> None:
    with followed(server) as (follower, job):
        follower.send_signal(signal.SIGINT)
        _, err = follower.communicate(timeout=30)
        assert follower.returncode == 130
        assert f"ray job stop {job}" in err
        assert "RUNNING" in ray_job(server, "status", job)


@pytest.mark.slow
def test_the_documented_command_uploads_the_packages_and_little_else(server: JobServer) -> None:
    done = subprocess.run(
        [RAY, "job", "submit", "--working-dir", ".", "--", "bash", "-c", "ls -A; du -s -B1 --apparent-size ."],
        cwd=ROOT,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert {"cluster", "jobs", "vit_actor"} <= set(lines)
    assert not {".git", ".venv", "tests", "out"} & set(lines)
    (size,) = (int(line.split()[0]) for line in lines if line.endswith("\t."))
    assert size < 10e6


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, "Invalid authentication token"),
        ({"RAY_AUTH_TOKEN": ""}, "couldn't find an authentication token"),
        ({"RAY_AUTH_MODE": "disabled"}, "Missing authentication token"),
    ],
)
def test_who_lacks_the_token_is_refused_in_one_line(server: JobServer, changed: dict[str, str], reason: str) -> None:
    done = server.submit("jobs.imagenet", **changed)
    assert done.code == 2
    assert re.fullmatch(rf"error: --address .*{reason}; set RAY_AUTH_MODE=token .*\n", done.stderr)


def test_an_address_where_nothing_answers_is_refused_at_once() -> None:
    done = run_module("cluster.submit", "--address", f"http://127.0.0.1:{free_port()}", "jobs.imagenet")
    assert done.code == 2
    assert "no job server answers" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@dataclass
class Ended:
    """Stands for a job server that took a job, which ended so, a moment after its log."""

    status: JobStatus = JobStatus.SUCCEEDED
    driver_exit_code: int | None = 0
    message: str = "Job supervisor actor died"
    asked: int = 0
    log: str = "its log\n"
    submitted: dict[str, object] = field(default_factory=dict)

    def submit_job(self, **what: object) -> str:
        self.submitted = what
        return "job-1"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        if self.log == "Ctrl-C":
            raise KeyboardInterrupt
        yield "its log\n"

    def get_job_status(self, job: str) -> JobStatus:
        self.asked += 1
        return self.status if self.asked > 1 else JobStatus.RUNNING

    def get_job_info(self, job: str) -> Ended:
        return self


@pytest.mark.parametrize(
    ("option", "log", "code", "told"),
    [
        ([], "its log\n", 0, ""),
        (["--detach"], "its log\n", 0, "ray job logs --follow job-1   or   ray job stop job-1\n"),
        ([], "Ctrl-C", 130, "job-1 goes on: ray job logs --follow job-1   or   ray job stop job-1\n"),
    ],
    ids=["followed", "detached", "interrupted"],
)
def test_the_command_goes_to_the_server_with_the_project_and_is_followed_unless_detached(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: list[str], log: str, code: int, told: str
) -> None:
    server = Ended(log=log)
    monkeypatch.setattr("cluster.submit.connect", lambda address: server)
    monkeypatch.setattr("cluster.submit.logging.disable", lambda level: None)  # it is for the whole process
    assert main([*option, "jobs.imagenet", "--out", "/a b", "--detach"]) == code
    entrypoint = "python -m jobs.imagenet --out '/a b' --detach"
    assert server.submitted == {"entrypoint": entrypoint, "runtime_env": {"working_dir": str(ROOT)}}
    assert capsys.readouterr() == ("" if option or code else "its log\n", f"job-1: {entrypoint}\n{told}")


@pytest.mark.parametrize(
    ("status", "code", "ends_with", "told"),
    [
        (JobStatus.SUCCEEDED, 0, 0, ""),
        (JobStatus.SUCCEEDED, None, 0, ""),
        (JobStatus.FAILED, 3, 3, ""),
        (JobStatus.STOPPED, -15, 143, ""),
        (JobStatus.FAILED, None, 1, "job-1: failed: Job supervisor actor died\n"),
    ],
)
def test_it_ends_with_the_jobs_own_code(
    capsys: pytest.CaptureFixture[str], status: JobStatus, code: int | None, ends_with: int, told: str
) -> None:
    assert asyncio.run(follow(Ended(status, code), "job-1")) == ends_with
    assert capsys.readouterr() == ("its log\n", told)


class Unready(BaseHTTPRequestHandler):
    """Answers as the job server of a head whose agent is not up yet."""

    def do_GET(self) -> None:
        self.answer(200, b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}')

    def do_POST(self) -> None:
        self.answer(500, b"No available agent to submit job, please try again later.")

    def answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)


def test_a_job_that_the_server_does_not_take_is_told_in_one_line() -> None:
    with HTTPServer(("127.0.0.1", 0), Unready) as unready:
        Thread(target=unready.serve_forever, daemon=True).start()
        done = run_module("cluster.submit", "--address", f"http://127.0.0.1:{unready.server_port}", "jobs.imagenet")
        unready.shutdown()
    assert done.code == 2, done.output
    assert "No available agent to submit job, please try again later" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: --address")
    assert "Traceback" not in done.stderr

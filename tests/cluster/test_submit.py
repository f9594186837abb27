"""Jobs on a real job server with token authentication: logs, exit codes, stopping, what is uploaded, and who is refused."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import urlopen
from uuid import UUID
from zipfile import ZipFile

import psutil
import pytest
from ray.job_submission import JobStatus

from cluster.package import pack
from cluster.submit import Log, follow, main
from jobs.running.command import JobFailed
from tests.commands import ROOT, Finished, run_module
from tests.conftest import free_port
from tests.waiting import wait_until
from vit_actor.errors import UserError

RAY = str(Path(sys.executable).parent / "ray")
START_SECONDS = 90


@dataclass(frozen=True)
class JobServer:
    environment: dict[str, str]
    """Of a client: address, token and a home of its own."""
    head: int
    """Process id of `ray start`."""

    def submit(self, *arguments: str, **environment: str) -> Finished:
        return run_module("cluster.submit", *arguments, environment=self.environment | environment, timeout=100)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    directory = tmp_path_factory.mktemp("job-server")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "HOME": str(directory),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # the job's `python` is the node's
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"],  # that of every cluster here: Ray reads it once in a process
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
        yield JobServer(environment | {"RAY_API_SERVER_ADDRESS": address}, head.pid)
    finally:
        os.killpg(head.pid, signal.SIGKILL)  # asked politely, it takes its time
        head.wait()


def answers(address: str) -> bool:
    try:
        urlopen(f"{address}/api/version", timeout=5)
    except HTTPError:  # alive, and asks for the token
        return True
    except (URLError, TimeoutError):
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["/etc/passwd"], "/etc/passwd: no module of this project, such as jobs.imagenet"),
        (["--address", "127.0.0.1:8265", "jobs.imagenet"], "give the job server's URL, such as http://127.0.0.1:8265"),
        (["--retries", "1", "--detach", "jobs.imagenet"], "--retries needs to follow the job"),
        (["--retries", "1", "jobs.imagenet", "--overwrite"], "--retries with --overwrite"),
    ],
)
def test_a_line_that_could_not_be_right_is_refused(line: list[str], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        main(line)


def test_an_address_where_nothing_answers_is_refused_at_once() -> None:
    done = run_module("cluster.submit", "--address", f"http://127.0.0.1:{free_port()}", "jobs.imagenet")
    assert done.code == 2
    assert "no job server answers" in done.stderr
    assert len(done.stderr.splitlines()) == 1


JOB = "raysubmit_0000000000000001"


@dataclass
class Ended:
    """Stands for a job server that took a job, which ended so."""

    ends_with: JobStatus = JobStatus.SUCCEEDED
    driver_exit_code: int | None = 0
    message: str = "Job supervisor actor died"
    fails: int = 0
    """Questions that get no answer first."""
    stream: str = "its "
    """What comes of the log before its stream breaks; None: nothing, for ever."""
    submitted: dict[str, object] = field(default_factory=dict)

    def submit_job(self, **what: object) -> str:
        self.submitted = what
        return "job-1"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield self.stream
        raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def get_job_logs(self, job: str) -> str:
        return "its log\n"

    def get_job_info(self, job: str) -> Ended:
        self.fails -= 1
        if self.fails >= 0:
            raise ConnectionError("Connection refused")
        return self

    @property
    def status(self) -> JobStatus:
        return self.ends_with


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_SECONDS", "END_SECONDS", "TOLD_AFTER"):
        monkeypatch.setattr(f"cluster.submit.{name}", 0.2)


@pytest.mark.parametrize(
    ("option", "log", "told"),
    [([], "its log\n", ""), (["--detach"], "", f"ray job logs --follow {JOB}   or   ray job stop {JOB}\n")],
    ids=["followed", "detached"],
)
def test_the_command_goes_to_the_server_with_the_project_and_is_followed_unless_detached(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: list[str], log: str, told: str
) -> None:
    server = Ended()
    monkeypatch.setattr("cluster.submit.uuid.uuid4", lambda: UUID(int=1 << 64))
    monkeypatch.setattr("cluster.submit.connect", lambda address: server)
    monkeypatch.setattr("cluster.submit.logging.disable", lambda level: None)  # it is for the whole process
    assert main([*option, "jobs.imagenet", "--out", "/a b", "--detach"]) == 0
    assert server.submitted["entrypoint"] == "python -m jobs.imagenet --out '/a b' --detach"
    assert capsys.readouterr() == (log, f"{JOB}: {server.submitted['entrypoint']}\n{told}")


@pytest.mark.parametrize(
    ("status", "code", "ends_with", "told"),
    [
        (JobStatus.SUCCEEDED, 0, 0, ""),
        (JobStatus.SUCCEEDED, None, 0, ""),
        (JobStatus.FAILED, 3, 3, ""),
        (JobStatus.FAILED, -9, 137, ""),
        (JobStatus.STOPPED, -15, 143, ""),
        (JobStatus.FAILED, None, 1, "job-1: failed: Job supervisor actor died\n"),
    ],
)
@pytest.mark.parametrize(("fails", "stream"), [(0, "its "), (6, "its "), (0, "its log\n"), (0, "")])
def test_it_ends_with_the_jobs_own_code_and_its_whole_log_whatever_becomes_of_the_stream(
    capsys: pytest.CaptureFixture[str], status: JobStatus, code: int | None, ends_with: int, told: str, fails: int, stream: str
) -> None:
    assert follow(Log(Ended(status, code, fails=fails, stream=stream), "job-1")) == ends_with
    out, err = capsys.readouterr()
    assert out == "its log\n"
    assert err.endswith(told)
    assert ("does not answer (Connection refused)" in err) is bool(fails)


def test_a_server_that_stays_silent_is_told_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cluster.submit.LOST_SECONDS", 1.0)
    with pytest.raises(JobFailed, match="job-1: no answer for 1 s, Connection refused"):
        follow(Log(Ended(fails=1000), "job-1"))
    assert capsys.readouterr().err.count("does not answer") == 1


@dataclass
class Scripted(Ended):
    """A job server whose jobs end one after the other as it is told: with an exit code, or unknown to it."""

    ends: list[int | str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    known: set[object] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    unanswered: int = 0
    """Which start's answer is lost."""

    def submit_job(self, **what: object) -> str:
        if what["submission_id"] in self.known:
            raise RuntimeError("Job with submission_id ... already exists. Please use a different submission_id.")
        self.known.add(what["submission_id"])
        self.started.append(str(what["entrypoint"]).removeprefix("python -m jobs."))
        if len(self.started) == self.unanswered:
            raise ConnectionError("the tunnel is closed")
        return ""

    def get_job_info(self, job: str) -> Ended:
        self.asked.append(job)
        end = self.ends.pop(0)
        if end == "restarted":
            self.known.clear()
            raise RuntimeError(f"Job {job} does not exist")
        if end == "away":
            raise RuntimeError(f"the tunnel is closed, and what answers says that {job} does not exist")
        assert isinstance(end, int)
        return Ended(JobStatus.FAILED if end else JobStatus.SUCCEEDED, end)


PLAIN, RESUMED = "imagenet --out /o", "imagenet --out /o --resume"


@pytest.mark.parametrize(
    ("ends", "code", "started"),
    [
        ([1, 130, 143, -9, 0], 0, [PLAIN, *[RESUMED] * 4]),
        *(([1, final], final, [PLAIN, RESUMED]) for final in (0, 3, 4)),
        *(([final], final, [PLAIN]) for final in (0, 2, 3, 4)),
        ([1, 2, 2, 2, 0], 0, [PLAIN, *[RESUMED] * 4]),  # there were no hosts yet
        ([1] * 5, 1, [PLAIN, *[RESUMED] * 4]),
        (["away", "away", 0], 0, [PLAIN]),
        (["restarted", "away", 0], 0, [PLAIN, RESUMED]),
    ],
)
def test_a_job_is_started_again_while_that_may_help_and_never_while_the_server_knows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ends: list[int | str], code: int, started: list[str]
) -> None:
    server, count = Scripted(ends=ends.copy()), len(ends) - 1
    slept: list[float] = []
    monkeypatch.setattr("cluster.submit.connect", lambda address: server)
    monkeypatch.setattr("cluster.submit.logging.disable", lambda level: None)
    monkeypatch.setattr("cluster.submit.time.sleep", slept.append)
    assert main(["--retries", "4", "jobs.imagenet", "--out", "/o"]) == code
    assert server.started == started
    assert slept == [10 * 2**n for n in range(count)]
    told = capsys.readouterr().err
    assert [f"retry {n + 1} of 4 in {seconds:g} s" in told for n, seconds in enumerate(slept)] == [True] * count


def test_a_job_that_the_server_took_without_an_answer_is_the_one_that_is_followed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Scripted(ends=[1, 0], unanswered=2)
    monkeypatch.setattr("cluster.submit.uuid.uuid4", lambda: UUID(int=1 << 64))
    monkeypatch.setattr("cluster.submit.connect", lambda address: server)
    monkeypatch.setattr("cluster.submit.logging.disable", lambda level: None)
    monkeypatch.setattr("cluster.submit.time.sleep", lambda seconds: None)
    assert main(["--retries", "4", "jobs.imagenet", "--out", "/o"]) == 0
    assert (server.started, server.asked) == ([PLAIN, RESUMED], [JOB, f"{JOB}-2"])
    told = capsys.readouterr().err
    assert all(f"before `ray job stop {job}`, end this command" in told for job in server.asked)


@pytest.fixture
def retried(server: JobServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Future[int]]]:
    """Starts main with --retries on the real job server, in a thread."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("cluster.submit.logging.disable", lambda level: None)
    monkeypatch.setattr("cluster.submit.RETRY_SECONDS", 0.5)
    with ThreadPoolExecutor() as threads:
        address = server.environment["RAY_API_SERVER_ADDRESS"]
        yield lambda *arguments: threads.submit(main, ["--address", address, "--retries", "3", *arguments])


def processes(server: JobServer, *words: str) -> list[psutil.Process]:
    """Of this head, with all these words in their command line."""
    found = psutil.Process(server.head).children(recursive=True)
    return [each for each in found if set(words) <= set(each.cmdline())]


def test_a_job_server_that_goes_away_and_returns_is_followed_again_and_starts_nothing_twice(
    server: JobServer,
    retried: Callable[..., Future[int]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, seconds in (("ANSWER_SECONDS", 1.0), ("LOST_SECONDS", 1.0), ("QUIET_SECONDS", 1.0)):
        monkeypatch.setattr(f"cluster.submit.{name}", seconds)
    mark, out, err = tmp_path / "mark", "", ""
    counts = f"import time; [(print(n, flush=True), time.sleep(1)) for n in range(8)]; open({str(mark)!r}, 'a').write('x')"
    running = retried("timeit", "-n1", "-r1", counts)
    wait_until(lambda: processes(server, "timeit", "-n1"), 60)
    (dashboard,) = [each for each in processes(server) if "dashboard/dashboard.py" in " ".join(each.cmdline())]
    dashboard.suspend()
    try:
        while "retry 1 of 3" not in err and not running.done():
            time.sleep(0.1)
            more = capsys.readouterr()
            out, err = out + more.out, err + more.err
    finally:
        dashboard.resume()
    code = running.result(100)
    out += capsys.readouterr().out
    assert "no answer for" in err
    assert (code, mark.read_text()) == (0, "x"), out + err
    assert re.findall(r"^\d+$", out, re.MULTILINE) == [str(n) for n in range(8)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose directory holds more than a job needs."""
    for name in ("jobs/a.py", "vit_actor/b.py", "cluster/c.py", "jobs/__pycache__/a.pyc", "jobs/.hidden", "notes.txt"):
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_text(name)
    os.mkfifo(tmp_path / "project/pipe")
    (tmp_path / "project/loop").symlink_to("loop")
    return tmp_path / "project"


def enlarged(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


def packed(project: Path, *arguments: str) -> set[str]:
    folder = project.parent / f"packed-{secrets.token_hex(4)}"
    folder.mkdir()
    package = pack(project, "jobs.a", list(arguments), folder)
    assert package.read_bytes() == pack(project, "jobs.a", list(arguments), folder).read_bytes()
    return set(ZipFile(package).namelist())


def test_a_job_gets_the_packages_and_what_its_arguments_name(project: Path) -> None:
    assert packed(project) == {"jobs/a.py", "vit_actor/b.py", "cluster/c.py"}
    assert packed(project, "--data=notes.txt", "/notes", "../x", "s3://notes.txt") - packed(project) == {"notes.txt"}


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda jobs: os.mkfifo(jobs / "p"), "jobs/p: neither a file nor a folder"),
        (lambda jobs: (jobs / "l").symlink_to("l"), "jobs/l: cannot be uploaded"),
        (lambda jobs: (jobs / "up").symlink_to(".."), "a link to a folder that it is in"),
        (lambda jobs: enlarged(jobs / "a.py", 343_000_000), "343 MB: .*jobs/a.py 343 MB"),
        (lambda jobs: (jobs / "b").symlink_to(enlarged(jobs / "../big", 2**31)), "jobs/b 2,147 MB"),
    ],
)
def test_what_cannot_be_uploaded_is_named(project: Path, harm: Callable[[Path], object], told: str) -> None:
    harm(project / "jobs")
    with pytest.raises(UserError, match=told):
        packed(project)


def test_a_large_upload_says_its_size(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(project / "notes.txt", 30_000_000)
    packed(project, "notes.txt")
    assert f"uploading 30 MB: {project}/notes.txt 30 MB" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["s3://key:HUSHHUSH@bucket/a", "--data=s3://bucket/a?secret_key=HUSHHUSH"])
def test_credentials_are_not_handed_to_a_cluster_that_would_show_them(argument: str) -> None:
    done = run_module("cluster.submit", "jobs.imagenet", "--data", argument)
    assert (done.code, len(done.stderr.splitlines())) == (2, 1)
    assert "HUSHHUSH" not in done.output
    assert "environment of the cluster's nodes" in done.stderr


class Unready(BaseHTTPRequestHandler):
    """Answers as the job server of a head whose agent is not up yet."""

    def do_GET(self) -> None:
        self.answer(200, b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}')

    def do_PUT(self) -> None:
        self.answer(200, b"")

    def do_POST(self) -> None:
        self.answer(500, b"No available agent to submit job, please try again later.")

    def answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_is_not_ready_is_asked_again_and_then_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cluster.submit.START_SECONDS", 2.0)
    monkeypatch.setattr("cluster.submit.logging.disable", lambda level: None)
    with HTTPServer(("127.0.0.1", 0), Unready) as unready:
        Thread(target=unready.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=r"did not take the job: .*No available agent to submit job, please try again later"):
            main(["--address", f"http://127.0.0.1:{unready.server_port}", "jobs.imagenet"])
        unready.shutdown()
    assert capsys.readouterr().err.count("asking for 2 s at most") == 1

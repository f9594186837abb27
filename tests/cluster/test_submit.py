"""Jobs on a real job server with token authentication: logs, exit codes, stopping, what is uploaded, and who is refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Thread
from types import SimpleNamespace
from urllib.error import HTTPError, URLError
from urllib.request import urlopen
from uuid import UUID
from zipfile import ZipFile

import pytest
from ray.job_submission import JobStatus

from cluster.package import pack
from cluster.submit import Log, follow, main
from jobs.running.command import JobFailed
from tests.commands import ROOT, Finished, run_line, run_module
from tests.conftest import free_port, ray_head
from tests.jobs.conftest import ended
from tests.processes import processes
from tests.waiting import wait_until
from vit_actor.errors import UserError

RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True)
class JobServer:
    environment: dict[str, str]  # Of a client: address, token and a home of its own

    def submit(self, *arguments: str, **environment: str) -> Finished:
        return run_module("cluster.submit", *arguments, environment=self.environment | environment, timeout=100)

    def ray_job(self, *arguments: str) -> str:
        return run_line(RAY, "job", *arguments, environment=self.environment).output

    def processes(self, pattern: str) -> list[int]:
        return list(processes(pattern, f"HOME={self.environment['HOME']}"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    options = [f"--dashboard-port={(port := free_port())}", f"--dashboard-agent-listen-port={free_port()}", "--num-cpus=2"]
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            urlopen(f"{address}/api/version", timeout=5)
        except HTTPError:  # alive, and asks for the token
            return True
        except (URLError, TimeoutError):
            pass
        return False

    with (
        pytest.MonkeyPatch.context() as patch,
        TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as files,
    ):
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # the job's `python` is the node's
        # A job looks there for its cluster; others of this machine are in /tmp/ray.
        options += ["--include-dashboard=true", f"--temp-dir={files}"]
        with ray_head(tmp_path_factory.mktemp("job-server"), *options) as cluster:
            wait_until(answers, 90)
            yield JobServer(cluster.environment | {"RAY_API_SERVER_ADDRESS": address})


def test_a_job_ends_with_its_own_code_and_its_log_arrives(server: JobServer, tmp_path: Path) -> None:
    sample = ("--data", "jobs/sample/images", "--model", "jobs/sample/model", "--limit", "64", "--device", "cpu")
    done = server.submit("jobs.imagenet", *sample, "--out", str(tmp_path / "out"))
    assert (done.code, "top-1" in done.stdout) == (0, True), done.output
    assert (tmp_path / "out/report.html").is_file()
    wrong = server.submit("jobs.report", "--out", "/nowhere")
    assert wrong.code == 2, wrong.output
    assert re.search(r"^error: .*/nowhere", wrong.stdout, re.MULTILINE)


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running_and_says_how_to_get_back(server: JobServer) -> None:
    command = [sys.executable, "-m", "cluster.submit", "http.server", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    follower = subprocess.Popen(command, cwd=ROOT, env=server.environment | {"PYTHONUNBUFFERED": "1"}, **pipes)  # type: ignore[call-overload]
    job = follower.stderr.readline().partition(":")[0]
    assert any("Serving HTTP" in line for line in follower.stdout)
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=30)
    assert (follower.returncode, f"ray job stop {job}" in err) == (130, True)
    assert "RUNNING" in server.ray_job("status", job)
    server.ray_job("stop", job)


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
        (["--address", "http://127.0.0.1:1", "jobs.imagenet"], "no job server answers ([Errno 111] Connection refused); open"),
        (["--retries", "1", "--detach", "jobs.imagenet"], "--retries needs to follow the job"),
        (["--retries", "1", "jobs.imagenet", "--overwrite"], "--retries with --overwrite"),
    ],
)
def test_a_line_that_could_not_be_right_is_refused(line: list[str], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        main(line)


@pytest.mark.parametrize("argument", ["s3://key:HUSHHUSH@bucket/a", "--data=s3://bucket/a?secret_key=HUSHHUSH"])
def test_credentials_are_not_handed_to_a_cluster_that_would_show_them(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = ended(lambda: main(["jobs.imagenet", "--data", argument]), capsys)
    assert (code, told.count("\n"), "HUSHHUSH" in told, "environment of the cluster's nodes" in told) == (2, 1, False, True)


JOB = "raysubmit_0000000000000001"
DIED = "Job supervisor actor died"
type End = int | str | tuple[JobStatus, int | None]


@dataclass
class Scripted:
    """Stands for a job server whose jobs end one after the other as it is told: with an exit code, a status, or unknown to it."""

    ends: list[End]
    stream: str = "its "  # What comes of the log before its stream breaks
    unanswered: int = 0  # Which start's answer is lost
    started: list[str] = field(default_factory=list)
    known: set[object] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def submit_job(self, **what: object) -> str:
        if what["submission_id"] in self.known:
            raise RuntimeError("Job with submission_id ... already exists. Please use a different submission_id.")
        self.known.add(what["submission_id"])
        self.started.append(str(what["entrypoint"]).removeprefix("python -m jobs."))
        if len(self.started) == self.unanswered:
            raise ConnectionError("the tunnel is closed")
        return ""

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield self.stream
        raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def get_job_logs(self, job: str) -> str:
        return "its log\n"

    def get_job_info(self, job: str) -> SimpleNamespace:
        self.asked.append(job)
        end = self.ends.pop(0)
        if end == "restarted":
            self.known.clear()
            raise RuntimeError(f"Job {job} does not exist")
        if end == "away":
            raise RuntimeError(f"the tunnel is closed, and what answers says that {job} does not exist")
        if end == "silent":
            raise ConnectionError("Connection refused")
        status, code = end if isinstance(end, tuple) else (JobStatus.FAILED if end else JobStatus.SUCCEEDED, end)
        return SimpleNamespace(status=status, driver_exit_code=code, message=DIED)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_SECONDS", "END_SECONDS", "TOLD_AFTER"):
        monkeypatch.setattr(f"cluster.submit.{name}", 0.2)
    monkeypatch.setattr("cluster.submit.logging.disable", lambda level: None)  # it is for the whole process


type Serve = Callable[[Scripted], list[float]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Has main talk to such a server, about JOB; the seconds that it sleeps."""

    def stand_in(server: Scripted) -> list[float]:
        slept: list[float] = []
        monkeypatch.setattr("cluster.submit.uuid.uuid4", lambda: UUID(int=1 << 64))
        monkeypatch.setattr("cluster.submit.connect", lambda address: server)
        monkeypatch.setattr("cluster.submit.time.sleep", slept.append)
        return slept

    return stand_in


@pytest.mark.parametrize(
    ("option", "log", "told"),
    [([], "its log\n", ""), (["--detach"], "", f"ray job logs --follow {JOB}   or   ray job stop {JOB}\n")],
    ids=["followed", "detached"],
)
def test_the_command_goes_to_the_server_with_the_project_and_is_followed_unless_detached(
    serve: Serve, capsys: pytest.CaptureFixture[str], option: list[str], log: str, told: str
) -> None:
    serve(server := Scripted([0]))
    assert main([*option, "jobs.imagenet", "--out", "/a b", "--detach"]) == 0
    assert server.started == ["imagenet --out '/a b' --detach"]
    assert capsys.readouterr() == (log, f"{JOB}: python -m jobs.{server.started[0]}\n{told}")


@pytest.mark.parametrize(
    ("end", "ends_with", "told"),
    [
        ((JobStatus.SUCCEEDED, 0), 0, ""),
        ((JobStatus.SUCCEEDED, None), 0, ""),
        ((JobStatus.FAILED, 3), 3, ""),
        ((JobStatus.FAILED, -9), 137, ""),
        ((JobStatus.STOPPED, -15), 143, ""),
        ((JobStatus.FAILED, None), 1, f"job-1: failed: {DIED}\n"),
    ],
)
@pytest.mark.parametrize(("fails", "stream"), [(0, "its "), (6, "its "), (0, "its log\n"), (0, "")])
def test_it_ends_with_the_jobs_own_code_and_its_whole_log_whatever_becomes_of_the_stream(
    capsys: pytest.CaptureFixture[str], end: End, ends_with: int, told: str, fails: int, stream: str
) -> None:
    assert follow(Log(Scripted([*["silent"] * fails, end], stream), "job-1")) == ends_with
    out, err = capsys.readouterr()
    assert out == "its log\n"
    assert err.endswith(told)
    assert ("does not answer (Connection refused)" in err) is bool(fails)


def test_a_silent_server_is_told_and_then_given_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("cluster.submit.LOST_SECONDS", 1.0)
    with pytest.raises(JobFailed, match="job-1: no answer for 1 s, Connection refused"):
        follow(Log(Scripted(["silent"] * 1000), "job-1"))
    assert capsys.readouterr().err.count("does not answer") == 1


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
    serve: Serve, capsys: pytest.CaptureFixture[str], ends: list[End], code: int, started: list[str]
) -> None:
    count = len(ends) - 1
    slept = serve(server := Scripted(ends.copy()))
    assert main(["--retries", "4", "jobs.imagenet", "--out", "/o"]) == code
    assert server.started == started
    assert slept == [10 * 2**n for n in range(count)]
    told = capsys.readouterr().err
    assert [f"retry {n + 1} of 4 in {seconds:g} s" in told for n, seconds in enumerate(slept)] == [True] * count


def test_a_job_that_was_taken_without_an_answer_is_the_one_followed(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(server := Scripted([1, 0], unanswered=2))
    assert main(["--retries", "4", "jobs.imagenet", "--out", "/o"]) == 0
    assert (server.started, server.asked) == ([PLAIN, RESUMED], [JOB, f"{JOB}-2"])
    told = capsys.readouterr().err
    assert all(f"before `ray job stop {job}`, end this command" in told for job in server.asked)


def test_a_job_server_that_goes_away_and_returns_is_followed_again_and_starts_nothing_twice(
    server: JobServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    for name, seconds in (("RETRY", 0.5), ("ANSWER", 1.0), ("LOST", 1.0), ("QUIET", 1.0)):
        monkeypatch.setattr(f"cluster.submit.{name}_SECONDS", seconds)
    mark, out, err = tmp_path / "mark", "", ""
    counts = f"import time; [(print(n, flush=True), time.sleep(1)) for n in range(8)]; open({str(mark)!r}, 'a').write('x')"
    line = ["--address", server.environment["RAY_API_SERVER_ADDRESS"], "--retries", "3", "timeit", "-n1", "-r1", counts]
    with ThreadPoolExecutor() as threads:
        running = threads.submit(main, line)
        wait_until(lambda: server.processes("timeit -n1"), 60)
        [dashboard] = server.processes("dashboard/dashboard.py")
        os.kill(dashboard, signal.SIGSTOP)
        try:
            while "retry 1 of 3" not in err and not running.done():
                time.sleep(0.1)
                more = capsys.readouterr()
                out, err = out + more.out, err + more.err
        finally:
            os.kill(dashboard, signal.SIGCONT)
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
    folder = Path(mkdtemp(dir=project.parent))
    package = pack(project, "jobs.a", list(arguments), folder)
    assert package.read_bytes() == pack(project, "jobs.a", list(arguments), folder).read_bytes()
    return set(ZipFile(package).namelist())


def test_a_job_gets_the_packages_and_what_its_arguments_name_and_a_large_upload_says_its_size(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert packed(project) == {"jobs/a.py", "vit_actor/b.py", "cluster/c.py"}
    assert packed(project, "--data=notes.txt", "/notes", "../x", "s3://notes.txt") - packed(project) == {"notes.txt"}
    os.truncate(project / "notes.txt", 30_000_000)
    packed(project, "notes.txt")
    assert f"uploading 30 MB: {project}/notes.txt 30 MB" in capsys.readouterr().err


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


class Unready(BaseHTTPRequestHandler):
    """Answers as the job server of a head whose agent is not up yet."""

    def do_GET(self) -> None:
        self.answer(200, b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}')

    def do_PUT(self) -> None:
        self.answer(200, b"")

    def do_POST(self) -> None:
        self.answer(500, b"No available agent to submit job, please try again later.")

    def answer(self, code: int, body: bytes) -> None:
        self.send_response_only(code)
        self.end_headers()
        self.wfile.write(body)


def test_a_server_that_is_not_ready_is_asked_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("cluster.submit.START_SECONDS", 2.0)
    with HTTPServer(("127.0.0.1", 0), Unready) as unready:
        Thread(target=unready.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=r"did not take the job: .*No available agent to submit job, please try again later"):
            main(["--address", f"http://127.0.0.1:{unready.server_port}", "jobs.imagenet"])
        unready.shutdown()
    assert capsys.readouterr().err.count("asking for 2 s at most") == 1

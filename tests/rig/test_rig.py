"""The rig is a cluster of distinct hosts, closed to strangers, and nothing of it remains."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import processes
from tests.waiting import wait_until

pytestmark = pytest.mark.slow  # as are all tests that run on it

CLI = [sys.executable, "-m", "tests.rig", "--loudboxes", "0", "--"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_ending_the_rigs_own_process_while_a_host_starts_leaves_nothing(how: signal.Signals) -> None:
    links = os.listdir("/sys/class/net")
    command = psutil.Popen([*CLI, "true"])

    def directories() -> set[str]:
        """Of rigs on whose heads Ray starts."""
        own = {child.pid for child in command.children(recursive=True)}
        lines = [line for pid, line in processes("--node-ip-address").items() if pid in own]
        return set(re.findall(r"/tmp/rig-\w+", " ".join(lines)))

    (directory,) = wait_until(directories, every=0.05)
    command.send_signal(how)
    command.wait(60)
    wait_until(lambda: not processes(directory) and not Path(directory).exists())
    assert directory not in Path("/proc/self/mountinfo").read_text()
    assert os.listdir("/sys/class/net") == links


def test_it_passes_on_its_commands_exit_code_and_without_its_tools_names_the_packages_to_install() -> None:
    assert subprocess.run([*CLI, "bash", "-c", "ray status >&2 && exit 7"], timeout=120).returncode == 7
    done = subprocess.run([*CLI, "true"], env={"PATH": "/nowhere"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "iproute2" in done.stderr
    assert done.stderr.count("\n") == 1

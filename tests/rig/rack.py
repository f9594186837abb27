"""Hosts as an operator finds them in a rack: an SSH server, an account that is not root, the packages installed.

For `ray up` over SSH, and for systemd. Each host is a `Machine` with a /tmp, /home, /run and accounts of its own. Its packages
are this interpreter's, laid below the account's project directory in a layer that the account may write to.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.commands import ROOT
from tests.rig.machine import BOARDS, Machine, Switch

ACCOUNT = "loudbox"
PROJECT = f"/home/{ACCOUNT}/loudbox-vit"
_UID = "1500"
_CAPTURED: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
_TRACKED = "git -c safe.directory='*' ls-files -z"

# $1: the host's own files; the rest: directories that its new /tmp and /root would hide, mounted back where they were.
_HOST = """
set -e
mount --bind "$1" /mnt
shift
n=0
for path in "$@"; do n=$((n + 1)); mkdir -p "/mnt/keep/$n"; mount --bind "$path" "/mnt/keep/$n"; done
for place in /tmp /run /home /root /var/log /var/lib/systemd; do mount -t tmpfs -o mode=755 tmpfs "$place"; done
chmod 1777 /tmp
mkdir /run/sshd
n=0
for path in "$@"; do n=$((n + 1)); mkdir -p "$path"; mount --bind "/mnt/keep/$n" "$path"; done
mkdir -p /mnt/layer
mount -t tmpfs tmpfs /mnt/layer
mkdir /mnt/layer/upper /mnt/layer/work /mnt/layer/etc /mnt/layer/etc-work
cp /etc/hosts /etc/resolv.conf /mnt/etc
mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/layer/etc,workdir=/mnt/layer/etc-work /etc
cp /mnt/etc/* /etc
cp -a /mnt/home/. /home
chown -R loudbox:loudbox /home/loudbox
/usr/sbin/sshd -h /mnt/host_key -o UsePAM=no -o PasswordAuthentication=no -o PermitRootLogin=no -o PidFile=none
"""

# $1: installed packages; $2: the project. What install.sh would find: these packages, and a ttnn without its compiler.
_INSTALLED = """
set -e
mount -t tmpfs -o mode=755 tmpfs /opt
mkdir -p "$2/.venv"
mount -t overlay overlay -o "lowerdir=$1,upperdir=/mnt/layer/upper,workdir=/mnt/layer/work" "$2/.venv"
cp /mnt/requirements.txt "$2/.venv/installed"
ttnn=$(echo "$2"/.venv/lib/python3*/site-packages/ttnn)
cp /mnt/sfpi-version "$ttnn/tt_metal/sfpi-version"
mkdir -p "$ttnn/runtime"
chown loudbox:loudbox "$2" "$2/.venv" "$2/.venv/installed" "$ttnn/runtime"
"""

# systemd as the first process of a PID namespace, with no units of this machine's own but what a host has anyway.
_SYSTEMD = """
rm -r /etc/systemd/system
mkdir /etc/systemd/system
umount -R /sys/fs/cgroup
exec unshare --pid --fork --cgroup --mount-proc bash -c '
mount -t cgroup2 cgroup2 /sys/fs/cgroup
container=rig exec /lib/systemd/systemd --system --unit=multi-user.target'
"""


class Rack:
    """Hosts on one switch for the length of a `with` block. Needs root and Debian's openssh-server, rsync and iproute2.

    directory: where the hosts' files are made. A host is added with `add`; commands run as the account that is not root.
    shared: a directory that every host sees at one path, as it would network storage.
    """

    def __init__(self, directory: Path) -> None:
        self.hosts: dict[str, Machine] = {}
        self.shared = directory / "shared"
        self.shared.mkdir()
        self.shared.chmod(0o777)
        self._directory = directory
        self._key = directory / "key"

    def __enter__(self) -> Self:
        _make_key(self._key)
        self._switch = Switch()
        return self

    def __exit__(self, *error: object) -> None:
        for machine in self.hosts.values():
            machine.kill()
        self._switch.close()

    def add(self, name: str, address: str) -> None:
        """Boot a host whose account holds the operator's key, both halves: the launcher copies it to the head."""
        own = self._directory / name
        ssh = own / "home" / ACCOUNT / ".ssh"
        shutil.copytree("/etc/skel", ssh.parent)
        ssh.mkdir(mode=0o700)
        shutil.copy(self._key, ssh / "id_ed25519")
        shutil.copy(self._key.with_suffix(".pub"), ssh / "authorized_keys")
        _make_key(own / "host_key")
        _write_accounts(own / "etc")
        machine = self.hosts[name] = Machine(self._switch, name, address, shm_bytes=400 * 2**20)
        self._switch.connect(machine)
        kept = {str(Path(path).resolve()) for path in (sys.base_prefix, sys.prefix, ROOT, self.shared)}
        self.as_root(name, _HOST, str(own), *sorted(kept))

    def install(self, name: str, sfpi_version: str, *, project: str = PROJECT) -> None:
        """Give a host the packages that install.sh installs, a ttnn that names this compiler, and four boards."""
        own = self._directory / name
        (own / "sfpi-version").write_text(sfpi_version)
        shutil.copy(ROOT / "requirements.txt", own)
        self.as_root(name, _INSTALLED, str(Path(sys.prefix).resolve()), project)
        self.as_root(name, BOARDS, "/mnt/dev")

    def copy_project(self, name: str, to: str) -> None:
        """Copy the project's tracked files into a directory of the account's."""
        self.check(name, f"mkdir -p {to} && cd {ROOT} && {_TRACKED} | xargs -0 cp --parents -t {to}")

    def boot(self, name: str) -> None:
        """Start systemd on a host; returns when it has started everything."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.hosts[name].start(["bash", "-c", _SYSTEMD], Path("/"), **pipes)
        answers = "case $(systemctl is-system-running 2>/dev/null) in running|degraded) exit 0;; esac"
        self.as_root(name, f"for n in {{1..50}}; do {answers}; sleep 1; done; exit 1")

    def systemctl(self, name: str, arguments: str) -> str:
        """systemctl as root; what it printed. Tried again, for from outside of the PID namespace it does not always connect."""
        once = f'said=$(systemctl {arguments} 2>&1) && echo "$said" && exit 0'
        return self.as_root(name, f'for n in {{1..10}}; do {once}; sleep 1; done; echo "$said"; exit 1')

    def start(self, name: str, command: str, **options: object) -> subprocess.Popen[str]:
        """Start a shell command as the account, at home; options are Popen's."""
        env = {"PATH": f"{Path(sys.prefix).resolve()}/bin:/usr/bin:/bin", "HOME": f"/home/{ACCOUNT}", "LANG": "C.UTF-8"}
        account = ["setpriv", f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups", "bash", "-c", f"cd && {command}"]
        return self.hosts[name].start(account, Path("/"), env=env | {"RAY_AUTH_MODE": "token", "TERM": "dumb"}, **options)

    def run(self, name: str, command: str, timeout: float = 120.0) -> tuple[int, str]:
        """Run a shell command as the account; its exit code, and what it printed to either stream."""
        process = self.start(name, command, **_CAPTURED)
        try:
            out, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return process.returncode, out

    def check(self, name: str, command: str, timeout: float = 120.0) -> str:
        """What it printed; fails where the exit code is not 0."""
        code, out = self.run(name, command, timeout)
        assert code == 0, out
        return out

    def processes(self, name: str) -> list[str]:
        """The command lines of the account's processes on a host."""
        return self.as_root(name, "ps -u loudbox -o args= || true").splitlines()

    def as_root(self, name: str, script: str, *arguments: str) -> str:
        """Run a script as root; what it printed. Raises RuntimeError for an exit code but 0."""
        process = self.hosts[name].start(["bash", "-c", script, "bash", *arguments], Path("/"), **_CAPTURED)
        out, _ = process.communicate(timeout=60)
        if process.returncode:
            raise RuntimeError(f"{name}: {out}")
        return out


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _write_accounts(directory: Path) -> None:
    """/etc's accounts and one more, which may log in with a key only."""
    directory.mkdir(parents=True)
    line = {
        "passwd": f"{ACCOUNT}:x:{_UID}:{_UID}::/home/{ACCOUNT}:/bin/bash\n",
        "group": f"{ACCOUNT}:x:{_UID}:\n",
        "shadow": f"{ACCOUNT}:*:19000:0:99999:7:::\n",
    }
    for name, added in line.items():
        (directory / name).write_text((Path("/etc") / name).read_text() + added)
    (directory / "shadow").chmod(0o600)

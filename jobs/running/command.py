"""What every command shares: how its arguments are read, one line for what went wrong, and the exit codes."""

from __future__ import annotations

import argparse
import difflib
import errno
import gc
import importlib.metadata
import os
import re
import signal
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from jobs.running.stopping import FAILED
from jobs.running.terminal import say
from jobs.storage.address import redacted
from jobs.storage.failure import Failing, explained
from vit_actor.errors import UserError

if TYPE_CHECKING:
    from jobs.settings import Option, Settings

PROJECT = Path(__file__).parents[2]
USER_ERROR = 2
TOO_MANY_ERRORS = 3
TOO_INACCURATE = 4
STOPPED = 128 + signal.SIGTERM
NEW_OBJECTS = 100_000
"""After so many the interpreter looks for garbage. What a command imports makes three times as many, which stay; to look through
them after every seven hundred, as it does by itself, takes a seventh of the time."""


class JobFailed(Exception):
    """The job broke on the way; the message says at what, in one line."""


class Stopped(Exception):
    """A signal ended the job early; the message says how to go on, in one line. code: the command's exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Parser(argparse.ArgumentParser):
    """The arguments of a command: it knows --version, and a mistake is a UserError that says what to type instead."""

    def __init__(self, module: str, about: str | None, usage: str = "[options]") -> None:
        command = f"python -m {module}"
        first = (about or "").partition("\n\n")[0]
        super().__init__(prog=command, usage=f"{command} {usage}", description=first, allow_abbrev=False)
        self.add_argument("--version", action="version", version=f"loudbox-vit {version()}", help="show the version and exit")

    def parsed(self, arguments: list[str] | None) -> argparse.Namespace:
        """Raises UserError for arguments that are not understood; ends the process after --help and --version.

        Where a shell asks how the line may go on, it is told, and the process ends.
        """
        if "_ARGCOMPLETE" in os.environ:
            import argcomplete

            argcomplete.autocomplete(self)
        found, unknown = self.parse_known_args(arguments)
        if unknown:
            name = unknown[0].partition("=")[0]
            close = difflib.get_close_matches(name, re.findall(r"(?<![\w-])--[a-z][\w-]*", self.format_help()), 1, 0.7)
            if close:
                raise UserError(f"{name}: no such option; did you mean {close[0]}?")
            self.error(f"{name}: no such {'option' if name[:1] == '-' else 'argument'}")
        return found

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def version() -> str:
    """The project's, of the tree that this file is in or of the installed package."""
    try:
        return str(tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"])
    except OSError:
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version("loudbox-vit")
    return "of an unknown version"


def add_setting(group: argparse._ActionsContainer, name: str, hint: Any, option: Option) -> None:
    """Add a setting to a parser or a group of its arguments, of several words where its metavar is; absent if not given."""
    told = option.help.replace("%", "%%")
    add = partial(group.add_argument, f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=told)
    if hint is bool:
        add(action="store_true")
    elif " " in option.metavar:
        add(nargs="+", metavar=tuple(option.metavar.split()))
    elif get_origin(hint) is Literal:
        add(metavar="|".join(get_args(hint))).completer = lambda **_: get_args(hint)  # type: ignore[attr-defined]
    else:
        add(metavar=option.metavar)


def parse[S: Settings](kind: type[S], arguments: list[str] | None, module: str, about: str | None) -> S:
    """A job's settings from its arguments; raises UserError for a mistake in them."""
    options = kind.options()
    needed = {each.name: f"--{each.name} {options[each.name][1].metavar}" for each in fields(kind) if each.default is MISSING}
    parser = Parser(module, about, f"{' '.join(reversed(needed.values()))} [options]")
    groups = {group: parser.add_argument_group(group) for group in dict.fromkeys(option.group for _, option in options.values())}
    for name, (hint, option) in options.items():
        add_setting(groups[option.group], name, hint, option)
    given: dict[str, Any] = vars(parser.parsed(arguments))
    given |= {name: " ".join(words) for name, words in given.items() if isinstance(words, list)}
    if missing := [told for name, told in reversed(needed.items()) if name not in given]:
        parser.error(f"{' and '.join(missing)} missing")
    return kind(**given)


def run(main: Callable[[], int]) -> None:
    """Run a command's main and exit with its code; a mistake or a failed job ends as one line on stderr.

    LOUDBOX_TRACEBACK=1 in the environment shows where a failed job broke.
    """
    gc.set_threshold(NEW_OBJECTS)
    try:
        code = main()
    except UserError as error:
        say(f"error: {error}", sys.stderr)
        code = FAILED if isinstance(error, Failing) else USER_ERROR
    except Stopped as stopped:
        say(str(stopped), sys.stderr)
        code = stopped.code
    except KeyboardInterrupt:
        say("interrupted", sys.stderr)
        code = 128 + signal.SIGINT
    except Exception as error:
        if os.environ.get("LOUDBOX_TRACEBACK"):
            sys.stderr.write(_trace(error))
        told = str(error) if isinstance(error, JobFailed) else _of_the_machine(error)
        if not told:  # unforeseen: one line for the user, the traceback in a file
            by_ray = any(f"{os.sep}ray{os.sep}" in frame.filename for frame in traceback.extract_tb(error.__traceback__))
            perhaps = ray_settings() if by_ray else []
            told = f"{type(error).__name__}: {error}; {perhaps[0] if perhaps else _to_report(error)}"
        say("; ".join([f"error: {told}", *getattr(error, "__notes__", ())]), sys.stderr)
        code = FAILED
    gc.freeze()  # else the interpreter looks through a million objects on its way out, which takes a second
    sys.exit(code)


_OURS = "RAY_(ADDRESS|AUTH|CLIENT_MODE|JOB|USAGE|grpc_client_keep|DATA_MIN_GAP|DATA_AUTOSCALING)"
_SET = sorted(name for name in os.environ if name.startswith("RAY_") and not re.match(_OURS, name))
"""Settings of Ray that the environment had before Ray, and what a command sets."""


def ray_settings() -> list[str]:
    """What to say of them where Ray fails, which does not check all it is given."""
    return [f"perhaps for what the environment says in {', '.join(_SET)}; unset what is not needed"] if _SET else []


def _of_the_machine(error: Exception) -> str | None:
    """What this machine refused, and the fix; None for what it has no part in."""
    if isinstance(error, MemoryError):
        return _LIMITS[errno.ENOMEM]
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return _LIMITS[errno.EAGAIN]
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = sys.modules.get(error.name.partition(".")[0])
        if package is None or hasattr(package, "__path__"):
            return None
        what = f"{package.__file__} is in the place of the package {package.__name__}"
        return f"{what}; rename it, or take its directory out of PYTHONPATH"
    if not isinstance(error, OSError):
        return None
    name = getattr(error, "filename", None)
    return f"{name}: {explained(error, address=str(name))[1]}" if name else _LIMITS.get(error.errno or 0, explained(error)[1])


_LIMITS = {
    errno.EMFILE: "too many open files; raise `ulimit -n`",
    errno.ENFILE: "the machine has too many open files; end other programs",
    errno.EAGAIN: "no more processes or threads may be started; raise `ulimit -u`, or TasksMax under systemd",
    errno.ENOMEM: "no memory is left; see `free -h`, `ulimit -v` and the limit of this process's cgroup",
}


def _trace(error: Exception) -> str:
    return redacted("".join(traceback.format_exception(error)))


def _to_report(error: Exception) -> str:
    """What to do about a fault of the program."""
    fault = "this is a fault of the program"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="loudbox-traceback-", suffix=".txt", delete=False) as file:
            file.write(_trace(error))
            return f"{fault}: please report it with {file.name}"
    except OSError:
        return f"{fault}: run it again with LOUDBOX_TRACEBACK=1 and report what it prints"


def root_cause(error: BaseException) -> str:
    """The last line of what happened first: Ray wraps a worker's exception in layers, and appends advice, of its own."""
    import ray  # here, because most mistakes are told before it is needed

    def cause(of: BaseException) -> BaseException | None:
        return of.cause if isinstance(of, ray.exceptions.RayTaskError) else of.__cause__

    while isinstance(inner := cause(error), BaseException):
        error = inner
    lines = [line.strip() for line in str(error).split("\nFailed to ")[0].splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

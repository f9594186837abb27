"""What a user did wrong, in one line: the job prints it without a stack trace and exits with code 2."""


class UserError(Exception):
    """Bad input. The message names the thing and the fix, in one line."""


class DeviceError(RuntimeError):
    """A device that cannot be opened, is held by another process, or stopped answering."""


NOT_UP = "another process holds them or they hang; end it, or reset them with tt-smi -r"
"""What to say of chips whose opening never ended."""


def ended_while_opening(device: str) -> str:
    """What to say of a process that ended while it opened its device; on chips the watchdog is the usual end."""
    return "a process ended while it opened its device" + (f": the chips did not come up; {NOT_UP}" if device == "t3000" else "")

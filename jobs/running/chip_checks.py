"""What a run's attempts say of the checks of its chips (`Ledger.account`, in the manifest)."""

from collections import Counter
from collections.abc import Callable
from typing import Any

Attempts = list[dict[str, Any]]


def checked(attempts: Attempts) -> Callable[[dict[str, Any]], bool]:
    """Whether a chunk, by its footer, was answered before a check that all chips of its mesh have passed.

    It also counts as checked where its device has no chips, or an earlier version wrote it.
    """
    passed = {(life["mesh"], life["opened_at"]): life["passed"] for life in _lives(attempts)}

    def is_checked(footer: dict[str, Any]) -> bool:
        begun = footer.get("checks")
        return begun is None or passed.get((footer["mesh"], footer["opened_at"]), 0) > begun

    return is_checked


def counted(attempts: Attempts) -> tuple[int, list[str]]:
    """How many checks there were, and each chip that failed some, with its mesh and how many."""
    failed = Counter(f"{life['mesh']} {chip}" for life in _lives(attempts) for chip in life["failed"])
    failures = [f"{chip} ({count} failed)" for chip, count in sorted(failed.items())]
    return sum(life["checks"] for life in _lives(attempts)), failures


def _lives(attempts: Attempts) -> list[dict[str, Any]]:
    return [life for attempt in attempts for life in attempt.get("checks", [])]

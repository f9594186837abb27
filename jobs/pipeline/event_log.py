"""One JSON line an event, in the log of the worker where it happened: what a log collector sorts by run and mesh."""

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any


class EventLog:
    """Writes events to standard error, which Ray keeps as worker-*.err in its session's logs.

    about: what every line repeats, such as run_id and mesh. A line is one JSON object: time (UTC), level, event, then
    `about` and the event's own fields.
    """

    def __init__(self, **about: str) -> None:
        self._about = about

    def info(self, event: str, **fields: Any) -> None:
        """Something that belongs to an undisturbed run."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something an operator may want to look into; the run goes on."""
        self._write("warning", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, "level": level, "event": event, **self._about, **fields})
        with suppress(OSError):  # work goes on where the log's disk is full
            print(line + "\n", end="", file=sys.stderr, flush=True)  # at once, since several threads write

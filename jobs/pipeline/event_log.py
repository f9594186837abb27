"""One JSON line an event, in the log of the worker where it happened: what a log collector sorts by run and mesh."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

_LOGGER = logging.getLogger("loudbox")


class EventLog:
    """Writes events to standard error, which Ray keeps as worker-*.err in its session's logs.

    about: what every line repeats, such as run_id and mesh. A line is one JSON object: time (UTC), level, event, then
    `about` and the event's own fields.
    """

    def __init__(self, **about: str) -> None:
        self._about = about
        if not _LOGGER.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(_JsonLine())
            _LOGGER.addHandler(handler)
            _LOGGER.setLevel(logging.INFO)
            _LOGGER.propagate = False  # Ray's own handlers would repeat it as text

    def info(self, event: str, **fields: Any) -> None:
        """Something that belongs to an undisturbed run."""
        _LOGGER.info(event, extra={"fields": self._about | fields})

    def warning(self, event: str, **fields: Any) -> None:
        """Something an operator may want to look into; the run goes on."""
        _LOGGER.warning(event, extra={"fields": self._about | fields})


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = record.__dict__["fields"]
        return json.dumps({"time": time, "level": record.levelname.lower(), "event": record.getMessage(), **fields})

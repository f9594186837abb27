"""A manifest that several threads write."""

import threading
from pathlib import Path
from typing import Any

import pytest

from jobs.running import manifest
from jobs.running.manifest import Manifest, load_manifest
from jobs.storage.files import write_atomically


def test_what_was_noted_before_the_end_is_not_written_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Manifest("run", "imagenet", "data", "model", "", [], None, {}, {})
    run.begin_attempt(str(tmp_path), overwrite=False)
    slow, other = threading.Event(), threading.Event()

    def write(*arguments: Any) -> None:
        first = not slow.is_set()
        slow.set()
        if first:
            other.wait(0.5)  # long enough for the other thread, if it can write meanwhile
        write_atomically(*arguments)
        other.set()

    monkeypatch.setattr(manifest, "write_atomically", write)
    noting = threading.Thread(target=run.note, args=(str(tmp_path), {"retries": 1}))
    noting.start()
    assert slow.wait(10)
    run.end_attempt(str(tmp_path), "failed")
    noting.join()

    found = load_manifest(str(tmp_path))
    assert found is not None
    assert (found.attempts[-1]["state"], found.attempts[-1]["retries"]) == ("failed", 1)

"""MLPerf's LoadGen drives the meshes in its offline scenario: accuracy mode, performance mode, and the audit TEST01.

Unofficial whatever it says: ViT is no model of MLPerf.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import ray

from jobs.measuring.meshes import Measured, system_fps
from jobs.running.command import JobFailed, root_cause
from vit_actor.device import NO_CLASS
from vit_actor.errors import UserError

PACKAGE = "mlcommons-loadgen"
LIBRARY = 1024  # Random images that LoadGen draws from: as many as MLPerf has for ResNet-50
LOGGED = 1024  # Answers that TEST01 compares, about
AHEAD = 16  # A first part of the work, one in so many, is handed out at once; LoadGen's lists take a second a million to be read


@dataclass(frozen=True)
class Run:
    """One of LoadGen's runs. answers: what it logged, image of the library and answer in hexadecimal."""

    name: str
    summary: str
    answers: list[tuple[int, str]]

    @property
    def fps(self) -> float:
        """Images per second; not a number in accuracy mode."""
        found = re.search(r"^Samples per second: (\S+)", self.summary, re.MULTILINE)
        return float(found[1]) if found else math.nan

    @property
    def valid(self) -> bool:
        """LoadGen's own verdict, by the duration and number of images that it was given."""
        return "Result is : VALID" in self.summary


def check_installed() -> None:
    """Raises UserError where LoadGen is not, or not as the package whose version is told."""
    try:
        version(PACKAGE)
    except PackageNotFoundError:
        told = f"--loadgen: MLPerf's LoadGen is not installed; run .venv/bin/uv pip install {PACKAGE}"
        raise UserError(told) from None


def referee(meshes: list[Any], measured: list[Measured], folder: Path, *, seconds: float, images: int, seed: int) -> list[Run]:
    """The three runs, whose logs are left in directories of `folder`.

    meshes: see start_meshes. measured: what each did alone, by which they share the images. seconds, images: the least of a
    performance run. seed: of the library. Raises JobFailed when a device fails.
    """
    import mlperf_loadgen as lg

    ray.get([mesh.load.remote(LIBRARY, seed) for mesh in meshes])
    runs = []
    for name in ("accuracy", "performance", "TEST01"):
        settings = lg.TestSettings()
        settings.scenario = lg.TestScenario.Offline
        settings.mode = lg.TestMode.AccuracyOnly if name == "accuracy" else lg.TestMode.PerformanceOnly
        settings.min_query_count, settings.min_duration_ms = 1, round(seconds * 1000)
        # LoadGen asks for a tenth more images than fill the duration at this rate; a run that is too short would be INVALID.
        settings.offline_expected_qps = max(1.1 * system_fps(measured), images / (1.1 * seconds))
        if name == "TEST01":
            settings.accuracy_log_rng_seed, settings.accuracy_log_sampling_target = 1 + seed, LOGGED
        runs.append(_run(lg, name, settings, _System(meshes, [mesh.fps for mesh in measured], lg), folder / name))
    return runs


def _run(lg: Any, name: str, settings: Any, system: _System, folder: Path) -> Run:
    folder.mkdir(parents=True)
    logs, output = lg.LogSettings(), lg.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout, logs.enable_trace = str(folder), False, False
    logs.log_output = output
    sut = lg.ConstructFastSUT(system.issue, lambda: None)
    library = lg.ConstructQSL(LIBRARY, LIBRARY, lambda indices: None, lambda indices: None)
    lg.StartTestWithLogSettings(sut, library, settings, logs, str(folder / "audit.config"))
    system.join()
    lg.DestroyQSL(library)
    lg.DestroyFastSUT(sut)
    answers = json.loads((folder / "mlperf_log_accuracy.json").read_text() or "[]")
    return Run(name, (folder / "mlperf_log_summary.txt").read_text(), [(each["qsl_idx"], each["data"]) for each in answers])


@dataclass
class _System:
    """All meshes, as LoadGen's system under test: each gets its share of the images at once, and answers as it goes."""

    meshes: list[Any]
    rates: list[float]
    lg: Any
    threads: list[Thread] = field(default_factory=list)
    error: BaseException | None = None

    def issue(self, ids: list[int], images: list[int]) -> None:
        """LoadGen's question. ids: of the responses. images: indices of the library."""
        parts = np.cumsum([0, *self.rates]) / sum(self.rates)
        for first, last in ((0, len(ids) // AHEAD), (len(ids) // AHEAD, len(ids))):
            bounds = first + np.round(parts * (last - first)).astype(int)
            for mesh, begin, end in zip(self.meshes, bounds[:-1], bounds[1:], strict=True):
                stream = mesh.answer.options(num_returns="streaming").remote(np.array(images[begin:end], np.int32))
                self.threads.append(Thread(target=self._respond, args=(ids[begin:end], stream)))
                self.threads[-1].start()

    def join(self) -> None:
        """Wait for the last response; raises JobFailed when a device failed."""
        for thread in self.threads:
            thread.join()
        if self.error:
            raise JobFailed(root_cause(self.error)) from self.error

    def _respond(self, ids: list[int], stream: Iterator[Any]) -> None:
        begin = 0
        try:
            for answer in stream:
                classes = ray.get(answer)
                self._complete(ids[begin : begin + len(classes)], classes)
                begin += len(classes)
        except Exception as error:
            self.error = error
            self._complete(ids[begin:], np.full(len(ids) - begin, NO_CLASS, np.int32))  # else LoadGen waits for ever

    def _complete(self, ids: list[int], classes: np.ndarray) -> None:
        """One response of four bytes an image: its class, int32."""
        address, size, response = classes.ctypes.data, classes.itemsize, self.lg.QuerySampleResponse
        self.lg.QuerySamplesComplete([response(i, address + n * size, size) for n, i in enumerate(ids)])


def faults(runs: list[Run]) -> list[str]:
    """Why the runs do not pass: LoadGen's verdicts, and TEST01, by which every answer is the same in both modes."""
    accuracy, _, audit = runs
    right = dict(accuracy.answers)
    differing = {image for image, answer in audit.answers if right.get(image) != answer}
    found = [f"{run.name} is INVALID" for run in runs[1:] if not run.valid]
    found += [f"TEST01: other answers than in accuracy mode for {len(differing)} images"] * bool(differing)
    return found + ["TEST01: no answer was logged"] * (not audit.answers)


def terminal_lines(runs: list[Run], own_fps: float, shortcoming: str) -> list[str]:
    """What passed. own_fps: of the job's own loop. shortcoming: by which MLPerf's rules it is only a quick look, if it is."""
    accuracy, *timed = runs
    lines = [f"LoadGen {version(PACKAGE)}, offline scenario; unofficial, since ViT is no model of MLPerf"]
    lines.append(f"  accuracy: {len(accuracy.answers):,} answers of {LIBRARY:,} images logged")
    for run in timed:
        verdict = f"VALID for a quick look only ({shortcoming})" if shortcoming else "VALID"
        lines.append(f"  {run.name}: {run.fps:,.1f} images/s, {run.fps / own_fps - 1:+.1%} beside the job's own loop; {verdict}")
    return [*lines, f"  TEST01: {len(timed[-1].answers):,} answers logged while timed, each as in accuracy mode"]

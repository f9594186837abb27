"""What a user chose for a job: typed, checked when it is made, and kept in the run's manifest."""

from __future__ import annotations

import inspect
import operator
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cache, partial
from itertools import combinations
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from jobs.pipeline import placement
from jobs.pipeline.placement import Placement
from jobs.pipeline.schema import PREDICTIONS
from jobs.pipeline.sources.hub import is_hub
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, PARQUET_EXTENSIONS, TAR_EXTENSIONS, has_extension
from jobs.storage.address import absolute, is_submitted, is_uri, parent, path_of, place, shown
from vit_actor.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, hub_token
from vit_actor.errors import UserError
from vit_actor.geometry import GRID, IMAGES_PER_CHIP, geometry
from vit_actor.opening import DeviceRequest, check_precision
from vit_actor.simulated import SimulatedTiming

WRITTEN = ("--out", "--cache")
DATA_EXTENSIONS = (*IMAGE_EXTENSIONS, *PARQUET_EXTENSIONS, *TAR_EXTENSIONS)


@dataclass(frozen=True)
class Kind:
    """What a value may be: its types, how it is read from text (or ValueError), what to give instead of others.

    least: of numbers, and of the characters of text.
    """

    types: tuple[type, ...]
    parse: Callable[[str], Any]
    told: str
    least: float = 0


def _size(text: str) -> int:
    number, unit = re.fullmatch(r"([\d.]+) *([MGT]B)?", text.upper()).groups()  # type: ignore[union-attr]
    return round(float(number) * {None: 1, "MB": 10**6, "GB": 10**9, "TB": 10**12}[unit])


def _errors(text: str) -> int | float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text) if "." in text else int(text)


KINDS = {
    str: Kind((str,), str, "text that is not empty", 1),
    int: Kind((int,), int, "a whole number of at least 1", 1),
    float: Kind((int, float), float, "a number of at least 0"),
    bool: Kind((bool,), str, "True or False"),
}
SEED, SPEC = Kind((int,), int, "a whole number of at least 0"), Kind((str,), str, "text")
SIZE = Kind((int,), _size, "a size such as 50GB", 10**6)
ERRORS = Kind((int, float), _errors, "a number of images or a percentage such as 1%")
ACCURACY = Kind((str,), str, "a percentage such as 80%, or 99%-of RUN with another run's --out", 1)


@dataclass(frozen=True)
class Option:
    """How a setting is explained and written. group: of GROUPS. kind: of its values, where it is not the one of KINDS."""

    group: str
    help: str
    metavar: str = "N"
    kind: Kind | None = None


GROUPS = ("what to classify", "how much work", "results", "model and device", "cluster", "limits")
"""In the order in which people need them."""
WHAT, WORK, RESULTS, DEVICE, CLUSTER, LIMITS = (partial(Option, group) for group in GROUPS)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every job takes. Values may be text, as in a terminal, and places may be paths; raises UserError for a mistake."""

    out: Annotated[str, RESULTS("directory or URI for the results", "URI")]
    overwrite: Annotated[bool, RESULTS("replace the run in --out")] = False
    model: Annotated[str, DEVICE(f"directory or hub id (default: {DEFAULT_CHECKPOINT})", "MODEL")] = DEFAULT_CHECKPOINT
    device: Annotated[Literal["auto", "t3000", "cpu", "simulated"], DEVICE("default: t3000 if present, else cpu")] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "fast", "accurate"],
        DEVICE("on boards fast or accurate, on CPU auto or fp32 (default: auto, the best that costs no accuracy)"),
    ] = "auto"
    batch_size: Annotated[int, DEVICE("images per batch on CPU and in simulation (default: 64)")] = 64
    images_per_chip: Annotated[int | None, DEVICE("images of a batch on each chip of a board, 1 to 16 (default: 8)")] = None
    simulate: Annotated[str, DEVICE("timing of --device simulated, such as compute=10ms,upload=5ms", "SPEC", SPEC)] = ""
    address: Annotated[str | None, CLUSTER("Ray cluster (default: RAY_ADDRESS, else on this machine)", "HOST:PORT")] = None
    meshes: Annotated[int | None, CLUSTER("use at most N meshes (default: all)")] = None
    boards_per_mesh: Annotated[int, CLUSTER("PCIe boards a mesh takes (default: 4, a T3000; 1 for an n300 alone)")] = 4
    cpus_per_actor: Annotated[float | None, CLUSTER("cores for each mesh's process (default: from the model's size)")] = None
    wait: Annotated[float, CLUSTER("seconds to wait for busy resources (default: 60)", "S")] = 60.0
    device_limit: Annotated[float, LIMITS("seconds a device may take to open, or to answer (default: 120)", "S")] = 120.0

    @classmethod
    @cache
    def options(cls) -> dict[str, tuple[Any, Option]]:
        """Each setting's type and option, by name, group after group."""
        found = [(name, *get_args(hint)) for name, hint in get_type_hints(cls, include_extras=True).items()]
        return {name: (hint, option) for name, hint, option in sorted(found, key=lambda each: GROUPS.index(each[2].group))}

    def __post_init__(self) -> None:
        for name, (hint, option) in self.options().items():
            value = _checked(f"--{name.replace('_', '-')}", getattr(self, name), hint, option.kind)
            object.__setattr__(self, name, value)
        if self.model.startswith("file:"):
            object.__setattr__(self, "model", path_of(self.model))
        for name in ("out", "data", "model", "cache"):
            path = getattr(self, name, None)
            if path and (name != "model" or self.model_directory):  # else a hub's id
                object.__setattr__(self, name, absolute(path))
        self.check()

    def check(self) -> None:
        """Raise UserError for settings that contradict each other, before Ray starts, which takes seconds."""
        if self.simulate and self.device != "simulated":
            raise UserError(f"--simulate goes with --device simulated, not {self.device}")
        SimulatedTiming.from_spec(self.simulate)
        if self.images_per_chip is not None and not 1 <= self.images_per_chip <= 2 * GRID:
            raise UserError(f"--images-per-chip {self.images_per_chip}: give 1 to {2 * GRID}")
        self._check_device(self.device)
        if any(is_hub(str(getattr(self, name, ""))) for name in ("data", "model", "labels", "out", "cache")):
            hub_token()
        for name in ("out", "cache"):
            path = getattr(self, name, None)
            if path and is_submitted() and not is_uri(path) and not os.path.isabs(os.path.expanduser(path)):
                why = "relative to a submitted job's copy, which is deleted"
                raise UserError(f"--{name} {path}: {why}; give an absolute path or a URI")
            if path and path.startswith("memory://"):
                raise UserError(f"--{name} {path}: is lost with this process; give a place on a disk or in a store")
        for part in self.out.split("/"):  # readers of Hive partitions, DuckDB among them
            column, equals, _ = part.partition("=")
            if equals and column in PREDICTIONS.names:
                told = f"readers would take {part} for column {column!r} of all rows; choose another"
                raise UserError(f"--out {shown(self.out)}: {told}")
        read = {"--data": getattr(self, "data", None), "--model": self.model_directory}
        check_apart({**read, "--out": self.out, "--cache": getattr(self, "cache", None)})

    def _check_device(self, device: str) -> None:
        """Raise UserError for settings that go with other devices. device: auto says nothing yet."""
        if self.images_per_chip and device == "cpu":
            raise UserError("--images-per-chip goes with --device t3000 or simulated, not cpu")
        if device != "auto":
            check_precision(device, self.precision)

    @property
    def model_directory(self) -> str | None:
        """Where --model is, if it is a directory and no hub's id."""
        return self.model if os.path.isdir(os.path.expanduser(self.model)) else None

    def saved(self) -> dict[str, Any]:
        """All of them, for a manifest: without credentials."""
        return {name: shown(value) if isinstance(value, str) else value for name, value in vars(self).items()}

    def place(self, checkpoint: Checkpoint) -> Placement:
        """Where the job runs in the cluster that is connected; raises UserError as `place` and `check_precision` do."""
        found = placement.place(
            self.device,
            boards=self.boards_per_mesh,
            meshes=self.meshes,
            flops_per_image=checkpoint.flops,
            cpus_per_actor=self.cpus_per_actor,
            wait_seconds=self.wait,
            batch_seconds=SimulatedTiming.from_spec(self.simulate).compute,
        )
        self._check_device(found.device)
        return found

    def request(self, checkpoint: Checkpoint, found: Placement, **options: Any) -> DeviceRequest:
        """What an actor opens. options: further fields of a DeviceRequest.

        Raises UserError where the model does not lie on a chip with so many images.
        """
        if found.device == "t3000":
            geometry(checkpoint.config, self.images_per_chip or IMAGES_PER_CHIP)
        common: dict[str, Any] = {"batch_size": self.batch_size, "images_per_chip": self.images_per_chip}
        common |= {"precision": self.precision, "simulate": self.simulate, "open_seconds": self.device_limit}
        return DeviceRequest.of(checkpoint, found.device, threads=found.threads, **common, **options)


@dataclass(frozen=True, kw_only=True)
class ImagenetSettings(Settings):
    """Of jobs.imagenet."""

    data: Annotated[str, WHAT("folder, Parquet or WebDataset shards, local or any URI; hf://datasets/ILSVRC/imagenet-1k", "URI")]
    labels: Annotated[
        str | None,
        WHAT("where labels are (a file, a column), how to read them (by-name, by-number, by-order), or none", "LABELS"),
    ] = None
    limit: Annotated[int | None, WHAT("only the first N images")] = None
    exif: Annotated[Literal["ignore", "upright"], WHAT("turn images as their EXIF says (default: ignore)")] = "ignore"
    cache: Annotated[str | None, WHAT("keep decoded images there for later runs (150 KB each at 224 x 224)", "URI")] = None
    cache_limit: Annotated[int | None, WHAT("bytes it may hold, such as 50GB (default: all the disk has)", "SIZE", SIZE)] = None
    resume: Annotated[bool, RESULTS("continue the run in --out")] = False
    title: Annotated[str | None, RESULTS("the page's heading (default: names of the data and the model)", "TEXT")] = None
    streams: Annotated[int | None, CLUSTER("processes that hand out work, at most one a mesh (default: as needed)")] = None
    max_errors: Annotated[int | float, LIMITS("unreadable images allowed, or a share (default: 1%)", "N|N%", ERRORS)] = 0.01
    min_top1: Annotated[
        str | None,
        LIMITS("least top-1 accuracy: 80%, or 99%-of RUN, another run's --out; below it: exit code 4", "P RUN", ACCURACY),
    ] = None
    min_top5: Annotated[str | None, LIMITS("the same for top-5", "P RUN", ACCURACY)] = None

    def check(self) -> None:
        super().check()
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite exclude each other; give one of them")
        if isinstance(self.max_errors, float) and self.max_errors > 1:
            raise UserError(f"--max-errors {self.max_errors:.6g} is more than all images; give {ERRORS.told}")
        if self.cache_limit and self.cache is None:
            raise UserError("--cache-limit goes with --cache; give --cache URI too")
        for option, asked in (("--min-top1", self.min_top1), ("--min-top5", self.min_top5)):
            if asked and self.labels == "none":
                raise UserError(f"{option} needs labels; leave out --labels none")
            least_accuracy(option, asked)


@dataclass(frozen=True, kw_only=True)
class RandomSettings(Settings):
    """Of jobs that drive devices with random images."""

    warmup: Annotated[int, WORK("batches of random images before the clock starts (default: 10)")] = 10
    seed: Annotated[int, WORK("of the random images; mesh i uses seed + i (default: 0)", kind=SEED)] = 0


@dataclass(frozen=True, kw_only=True)
class SyntheticSettings(RandomSettings):
    """Of jobs.synthetic."""

    iterations: Annotated[int, WORK("at least N per mesh (default: 100)")] = 100
    images: Annotated[int | None, WORK("at least N per mesh (default on hardware: MLPerf's least, offline)")] = None
    seconds: Annotated[float | None, WORK("at least S seconds (default on hardware: as for --images)", "S")] = None
    loadgen: Annotated[bool, WORK("then let MLPerf's LoadGen drive the meshes: unofficial, 20 minutes")] = False
    sweep: Annotated[bool, WORK("1, 2, 4, 8 and 16 images per chip instead: rate over latency")] = False

    def check(self) -> None:
        super().check()
        if self.loadgen and self.sweep:
            raise UserError("--loadgen and --sweep exclude each other; give one of them")
        if self.loadgen and self.seconds == 0:
            raise UserError("--loadgen needs --seconds above 0")


@dataclass(frozen=True, kw_only=True)
class ScalingSettings(RandomSettings):
    """Of jobs.scaling."""

    data: Annotated[str | None, WHAT("run the whole pipeline on these (default: random images, the devices alone)", "URI")] = None
    limit: Annotated[int | None, WHAT("with --data: only the first N images")] = None
    cache: Annotated[str | None, WHAT("with --data: keep decoded images there, so that each is decoded once", "URI")] = None
    iterations: Annotated[
        int | None, WORK("without --data: batches a mesh when all are at work (default: 2000 on a T3000, else 100)")
    ] = None
    rounds: Annotated[int, WORK("times each size runs; medians count (default: 3)")] = 3

    def check(self) -> None:
        super().check()
        given = [name for name in ("iterations", "warmup", "seed") if getattr(self, name) != getattr(type(self), name)]
        if self.data and given:
            told = "is for random images; with --data the work is its images, or the first --limit of them"
            raise UserError(f"--{given[0]} {told}")
        if self.limit and not self.data:
            raise UserError("--limit goes with --data; without it give --iterations")
        if self.cache and not self.data:
            raise UserError("--cache goes with --data; leave it out")


JOBS = {"imagenet": ImagenetSettings, "synthetic": SyntheticSettings, "scaling": ScalingSettings}


def as_typed(job: str, chosen: dict[str, Any]) -> str:
    """The command with these settings (Settings.saved), without those that are as they would be anyway.

    Nor with what would replace or continue a run where it is pasted.
    """
    words = ["python", "-m", f"jobs.{job}"]
    for setting in fields(JOBS[job]):
        value = chosen.get(setting.name, setting.default)
        if setting.name == "max_errors" and isinstance(value, float):
            value = value if value == setting.default else f"{100 * value:.6g}%"
        if value != setting.default and setting.name not in ("overwrite", "resume"):
            words += [f"--{setting.name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def _checked(option: str, value: Any, hint: Any, kind: Kind | None) -> Any:
    """The value as its setting has it, read from text where that is not text. Raises UserError for one that does not do."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise UserError(f"{option} {value}: give {' or '.join(get_args(hint))}")
        return value
    hints = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in hints:
        return None
    kind, given = kind or KINDS[hints[0]], value
    try:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        value = kind.parse(value) if isinstance(value, str) else value
        if hasattr(value, "__index__") and not isinstance(value, bool):
            value = operator.index(value)  # NumPy's whole numbers too
        sound = isinstance(value, kind.types) and isinstance(value, bool) == (bool in kind.types)
        sound = sound and kind.least <= (len(value) if isinstance(value, str) else value) < float("inf")
    except (ValueError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"{option} {given}: give {kind.told}")
    if isinstance(value, str) and not value.isprintable():
        raise UserError(f"{option} {value!a}: not printable text in UTF-8; rename it, or give a link to it")
    return value


def least_accuracy(option: str, asked: str | None) -> tuple[Fraction, str | None]:
    """'80%' -> (4/5, None); '99%-of RUN' -> (99/100, 'RUN'). Raises UserError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%(?:-of +(.+))?", asked or "0%")
    if not found or Fraction(found[1]) > 100:
        raise UserError(f"{option} {asked}: give {ACCURACY.told}")
    return Fraction(found[1]) / 100, found[2]


def check_apart(places: dict[str, str | None]) -> None:
    """Raise UserError where a folder that is written to lies in another one of these, or has it inside.

    places: paths and URIs by the option that gave them. Links are followed, and spellings of one URI are the same place. Single
    files and patterns are no folders: what a run writes beside them is not read.
    """
    found = {}
    for option, uri in places.items():
        name = parent(uri)[1] if uri else ""
        if uri and not (is_hub(uri) or any(mark in name for mark in "*?{") or has_extension(name, DATA_EXTENSIONS)):
            found[option] = place(uri)
    for first, second in combinations(found, 2):
        (kind, one), (other_kind, other) = found[first], found[second]
        one, other = f"{one.rstrip('/')}/", f"{other.rstrip('/')}/"
        overlap = kind == other_kind and (one.startswith(other) or other.startswith(one))
        if overlap and (first in WRITTEN or second in WRITTEN):
            both = " and ".join(f"{option} {shown(places[option] or '')}" for option in (first, second))
            raise UserError(f"{both} are the same directory, or one is inside the other; give separate ones")


def taking[**P, S: Settings, R](kind: Callable[P, S]) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """Make a function of settings one of keywords, which its documentation lists."""

    def changed(function: Callable[[S], R]) -> Callable[P, R]:
        def call(*arguments: P.args, **keywords: P.kwargs) -> R:
            signature.bind(*arguments, **keywords)  # raises TypeError in the function's own name
            return function(kind(*arguments, **keywords))

        signature = inspect.signature(kind).replace(return_annotation=inspect.signature(function).return_annotation)

        options = kind.options()  # type: ignore[attr-defined]
        told = [f"    {name}: {option.help}" for name, (_, option) in options.items()]
        call.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Settings:", *told])
        call.__name__, call.__signature__ = function.__name__, signature  # type: ignore[attr-defined]
        return call

    return changed

"""Small real data sets in every layout: one set of JPEGs, written as folders, Parquet and tar."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

from jobs.pipeline.labels import _wnids
from jobs.pipeline.sources import EncodedImage, Source, open_source, surveyed
from vit_actor.errors import UserError

WNIDS = list(_wnids())  # ImageNet-1k's WordNet ids by class index

CLASS_NAMES = [f"thing {i}, Res tertia {i}" for i in range(1000)]
"""Names for a checkpoint of 1,000 classes, with a synonym each, as ImageNet's have."""


@dataclass(frozen=True)
class Picture:
    """A JPEG, its file name and its class index among 1,000."""

    name: str
    label: int
    data: bytes


def jpeg(seed: int, width: int = 48, height: int = 36) -> bytes:
    """A real JPEG, different for each seed: smooth colours with some noise."""
    noise = np.random.default_rng(seed)
    corners = PillowImage.fromarray(noise.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    pixels = np.asarray(corners.resize((width, height), PillowImage.Resampling.BICUBIC), np.int16)
    pixels = np.clip(pixels + noise.integers(-8, 9, pixels.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    PillowImage.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def pictures(count: int, labels: tuple[int, ...] = (0, 1, 207, 999)) -> list[Picture]:
    """`count` pictures named as ImageNet's validation set, of the given classes in turn."""
    return [
        Picture(f"ILSVRC2012_val_{i + 1:08d}.JPEG", labels[i % len(labels)], jpeg(i, 40 + i % 13, 30 + i % 7))
        for i in range(count)
    ]


def class_folders(root: Path, images: list[Picture], name: Callable[[int], str] = WNIDS.__getitem__) -> Path:
    """root/<class>/<image>; `name` is what a class index is called."""
    for image in images:
        flat_folder(root / name(image.label), [image])
    return root


def flat_folder(root: Path, images: list[Picture]) -> Path:
    """root/<image>, without labels."""
    root.mkdir(parents=True, exist_ok=True)
    for image in images:
        (root / image.name).write_bytes(image.data)
    return root


def hub_parquet(root: Path, images: list[Picture], class_names: list[str], shards: int = 2, split: str = "validation") -> Path:
    """root/validation-00000-of-00002.parquet and so on, written by the `datasets` library: image and ClassLabel."""
    from datasets import ClassLabel, Dataset, Features, Image

    root.mkdir(parents=True, exist_ok=True)
    features = Features({"image": Image(), "label": ClassLabel(names=class_names)})
    rows = {"image": [{"bytes": i.data, "path": i.name} for i in images], "label": [i.label for i in images]}
    data = Dataset.from_dict(rows, features=features)
    for k in range(shards):
        path = root / f"{split}-{k:05d}-of-{shards:05d}.parquet"
        data.shard(shards, k, contiguous=True).to_parquet(path, batch_size=5)
    return root


def plain_parquet(path: Path, images: list[Picture], *, labelled: bool = True, row_group_size: int = 4) -> Path:
    """One file of bytes columns: `jpeg`, and `cls` if labelled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = {"cls": pa.array([i.label for i in images], pa.int32())} if labelled else {}
    table = pa.table({"jpeg": pa.array([i.data for i in images], pa.binary()), **labels})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


type Link = tuple[bytes, str]  # Kind and target, as tarfile has them


def tar(path: Path, members: Sequence[tuple[str, bytes | Link]]) -> Path:
    """A tar of (name, bytes) or (name, link); compressed as the path says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
            else:
                info.type, info.linkname = data
            file.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path


def webdataset(root: Path, images: list[Picture], shards: int = 2, label: str = "cls") -> Path:
    """root/shard-000.tar and so on: image members, each with a .cls or .json beside it, or none if label is ""."""
    for k in range(shards):
        members: list[tuple[str, bytes]] = []
        for image in images[k::shards]:
            text = json.dumps({"label": image.label}) if label == "json" else str(image.label)
            both = (image.name, image.data), (f"{Path(image.name).stem}.{label}", text.encode())
            members += both if label else both[:1]
        tar(root / f"shard-{k:03d}.tar", members)
    return root


def opened(uri: Path | str, classes: Sequence[str] = CLASS_NAMES, labels: Path | str | None = None, **options: Any) -> Source:
    return open_source(str(uri), checkpoint_classes=list(classes), labels=None if labels is None else str(labels), **options)


def refusal(uri: Path | str, **options: Any) -> str:
    """The one short line that a data set is refused with."""
    with pytest.raises(UserError) as refused:
        surveyed(opened(uri, **options))
    said = str(refused.value)
    assert "\n" not in said
    assert len(said) < 600
    return said


def read_all(source: Source, wanted: Callable[[int], bool] = lambda _: True) -> list[EncodedImage]:
    """Every image of a source, shard by shard."""
    return [image for shard in source.shards() for _, image in source.read(shard, wanted)]


def labels_of(source: Source) -> list[int | None]:
    return [image.label for image in read_all(source)]

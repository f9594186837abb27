"""One data set of digits, a few of them damaged, in every layout that a job reads."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random

from tests.commands import ROOT
from tests.object_store.server import Store
from tests.pipeline.corpus import Picture, class_folders, flat_folder, plain_parquet, tar

SHARDS = 4


def digits(each: int = 13) -> list[Picture]:
    """So many of each of the sample model's ten classes, in the order of their names."""
    folders = sorted((ROOT / "jobs" / "sample" / "images").iterdir())
    files = [file for folder in folders for file in islice(sorted(folder.iterdir()), each)]
    return sorted((Picture(file.name, int(file.parent.name), file.read_bytes()) for file in files), key=lambda image: image.name)


def with_damage(images: list[Picture]) -> list[Picture]:
    """The same, and four that are no images."""
    half = images[0].data[: len(images[0].data) // 2]
    broken = (half, b"", b"not an image at all", bytes(2000))
    return images + [Picture(f"digit-{n}-damaged.jpeg", n, data) for n, data in enumerate(broken, 1)]


def flat(root: Path, images: list[Picture]) -> None:
    """With labels in a file beside the folder."""
    flat_folder(root, images)
    labels = "".join(f"{image.name} {image.label}\n" for image in images)
    root.with_name(f"{root.name}-labels.txt").write_text(labels)


def members(images: list[Picture]) -> list[tuple[str, bytes]]:
    """Of a tar: images with their labels, and so much else in the midst of them that it takes several reads."""
    pairs = (((i.name, i.data), (f"{Path(i.name).stem}.cls", str(i.label).encode())) for i in images)
    found = [member for pair in pairs for member in pair]
    half = len(found) // 4 * 2
    return [*found[:half], ("else.bin", Random(0).randbytes(9 * 2**20)), *found[half:]]


def tars(root: Path, images: list[Picture], kind: str = "tar") -> None:
    for shard in range(SHARDS):
        tar(root / f"shard-{shard}.{kind}", members(images[shard::SHARDS]))


def parquet(root: Path, images: list[Picture]) -> None:
    for shard in range(SHARDS):
        plain_parquet(root / f"shard-{shard}.parquet", images[shard::SHARDS], row_group_size=12)


def arrow(root: Path, images: list[Picture]) -> None:
    from datasets import ClassLabel, Dataset, Features, Image, disable_progress_bars

    disable_progress_bars()
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=[str(n) for n in range(10)])})
    rows = {"image": [{"bytes": i.data, "path": None} for i in images], "label": [i.label for i in images]}
    Dataset.from_dict(rows, features=features).save_to_disk(str(root), num_shards=SHARDS)


LAYOUTS: Mapping[str, Callable[[Path, list[Picture]], object]] = {
    "folders": partial(class_folders, name=str),
    "flat": flat,
    "tar": tars,
    "tar.gz": partial(tars, kind="tar.gz"),
    "parquet": parquet,
    "arrow": arrow,
}


def upload(store: Store, folder: Path, prefix: str) -> None:
    """A folder's files, as objects below a prefix, past HTTP."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            store.put(f"{prefix}/{file.relative_to(folder)}", file.read_bytes())

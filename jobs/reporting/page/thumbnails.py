"""Small pictures of a few images of a run, read again from its data set where that can be reached."""

import io
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from jobs.pipeline.chunk import CHUNK_IMAGES
from jobs.pipeline.decode import DecodeError, decode
from jobs.pipeline.sources import Shard, Source, open_source
from jobs.pipeline.sources.image_files import ImageFiles
from jobs.running.manifest import Manifest
from vit_actor.errors import UserError
from vit_actor.preprocess import Preprocess

SIDE = 112  # Pixels; a JPEG of it has about 4 KB
MOST_SHARDS = 512  # Shards looked through for those wanted, so that a report on a billion images does not list them all
MOST_READ = 12  # Shards read, where one has to be read up to the image wanted
READERS = 8  # Shards read at once: hides a store's latency


def thumbnails(manifest: Manifest | None, data: str | None, pictures: list[dict[str, Any]]) -> dict[str, bytes]:
    """JPEGs of SIDE x SIDE by image_id, squeezed as the model sees them. Images that are no longer where they were are left out.

    data: where the images are (default: what the manifest says).
    """
    wanted: dict[str, set[int]] = defaultdict(set)  # shard -> the images' ordinals in it
    for picture in pictures:
        shard, _, k = picture["chunk"].rpartition(".")
        if k.isdigit():
            wanted[shard].add(int(k) * CHUNK_IMAGES + picture["row"])
    if manifest is None or not wanted:
        return {}
    try:
        source = open_source(data or manifest.data, checkpoint_classes=[], labels="none", limit=manifest.settings.get("limit"))
        if not isinstance(source, ImageFiles):
            wanted = dict(sorted(wanted.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_READ])
        shards = [shard for shard in islice(source.shards(), MOST_SHARDS) if shard.id in wanted]
    except (UserError, OSError, pa.ArrowException):  # the data set is out of reach, or has changed
        return {}
    with ThreadPoolExecutor(READERS) as readers:
        upright = bool(manifest.settings.get("preprocess", {}).get("upright"))
        found = readers.map(lambda shard: dict(_of_shard(source, shard, wanted[shard.id], upright)), shards)
        return {image_id: jpeg for some in found for image_id, jpeg in some.items()}


def _of_shard(source: Source, shard: Shard, wanted: set[int], upright: bool) -> Iterator[tuple[str, bytes]]:
    """The pictures of the wanted images that are still there: (image_id, JPEG)."""
    # A filter that Pillow alone has: for a few pictures its start is worth more than its speed.
    how = Preprocess(SIDE, SIDE, Image.Resampling.HAMMING, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), upright=upright)
    pixels = np.empty(how.shape, np.uint8)
    with suppress(UserError, OSError, pa.ArrowException):
        for ordinal, image in source.read(shard, wanted.__contains__):
            if image.error is None:
                with suppress(DecodeError):
                    decode(image.data, how, pixels)
                    jpeg = io.BytesIO()
                    Image.fromarray(pixels).save(jpeg, "JPEG", quality=80)
                    yield image.image_id, jpeg.getvalue()
            if ordinal == max(wanted):
                return

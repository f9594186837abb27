"""Small pictures of a few images of a run, read again from its data set where that can be reached."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
from PIL import Image

from jobs.pipeline.chunk import CHUNK_IMAGES
from jobs.pipeline.decode import DecodeError, decode
from jobs.pipeline.sources import EncodedImage, open_source
from jobs.reporting.tables import Example
from jobs.running.manifest import Manifest
from vit_actor.errors import UserError
from vit_actor.preprocess import Preprocess

SIDE = 96
"""Pixels; a JPEG of it has about 3 KB."""
MOST_SHARDS = 512
"""Shards looked through for those wanted, so that a report on a billion images does not list them all."""


def thumbnails(manifest: Manifest | None, data: str | None, examples: Iterable[Example]) -> dict[str, bytes]:
    """JPEGs of SIDE x SIDE by image_id, squeezed as the model sees them. Images that are no longer where they were are left out.

    data: where the images are (default: what the manifest says).
    """
    wanted: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for example in examples:
        shard, _, k = example.chunk.rpartition(".")
        if k.isdigit():
            wanted[shard][int(k) * CHUNK_IMAGES + example.row] = example.image_id
    if manifest is None or not wanted:
        return {}
    found = {}
    # A filter that Pillow alone has: for a few pictures its start is worth more than its speed.
    how = Preprocess(SIDE, SIDE, Image.Resampling.HAMMING, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    pixels = np.empty(how.shape, np.uint8)
    try:
        for image in _read(manifest, data or manifest.data, wanted):
            try:
                decode(image.data, how, pixels)
            except DecodeError:
                continue
            jpeg = io.BytesIO()
            Image.fromarray(pixels).save(jpeg, "JPEG", quality=80)
            found[image.image_id] = jpeg.getvalue()
    except (UserError, OSError, pa.ArrowException):  # the data set is out of reach, or has changed
        pass
    return found


def _read(manifest: Manifest, data: str, wanted: dict[str, dict[int, str]]) -> Iterator[EncodedImage]:
    """The wanted images, by shard and ordinal. Raises what the data set's storage raises."""
    source = open_source(data, checkpoint_classes=[], labels="none", limit=manifest.settings.get("limit"))
    missing = len(wanted)
    for shard in islice(source.shards(), MOST_SHARDS):
        if shard.id in wanted:
            yield from _of_shard(source.read(shard, wanted[shard.id].__contains__), wanted[shard.id])
            missing -= 1
        if not missing:
            return


def _of_shard(read: Iterator[tuple[int, EncodedImage]], wanted: dict[int, str]) -> Iterator[EncodedImage]:
    """Stops at the last wanted one; what is not the image that was there is left out."""
    for ordinal, image in read:
        if image.error is None and wanted[ordinal] == image.image_id:
            yield image
        if ordinal == max(wanted):
            return

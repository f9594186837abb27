"""The prediction row: exactly one per input image, also for one that failed. Every report is computed from these alone."""

from __future__ import annotations

import pyarrow as pa


def _field(name: str, kind: pa.DataType, meaning: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": meaning})


PREDICTIONS = pa.schema(
    [
        _field("image_id", pa.string(), "unique in the data set: path below its root, shard#row, or shard/member"),
        _field("label", pa.int32(), "true class in the checkpoint's order; null where the data has none", nullable=True),
        _field("prediction", pa.int32(), "top-1 class; null where the image could not be read", nullable=True),
        _field("top5", pa.list_(pa.int32()), "best classes, best first; null on error", nullable=True),
        _field("top5_probability", pa.list_(pa.float32()), "softmax probabilities beside top5; null on error", nullable=True),
        _field(
            "held_prediction",
            pa.int32(),
            "best of the classes the data holds, where those are fewer than the checkpoint's; null on error",
            nullable=True,
        ),
        _field("correct", pa.bool_(), "prediction == label; null without a label; false on error with one", nullable=True),
        _field("error", pa.string(), "why there is no prediction, in one line; null where there is one", nullable=True),
        _field("host", pa.string(), "host that classified the image (on error: that handled it)"),
        _field("mesh", pa.string(), "device that classified the image, unique in the cluster, e.g. host/0-3"),
        _field("batch", pa.int64(), "batch of its mesh's actor the image was in; null on error", nullable=True),
        _field("started_at", pa.timestamp("us", tz="UTC"), "when the device took that batch; null on error", nullable=True),
        _field("batch_seconds", pa.float64(), "seconds that batch kept the device; null on error", nullable=True),
        _field("run_id", pa.string(), "the run that wrote the row"),
    ],
    metadata={"schema": "loudbox-vit/predictions/2"},
)

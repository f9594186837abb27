"""The prediction row: exactly one per input image, also for one that failed. Every report is computed from these alone."""

import pyarrow as pa
import pyarrow.compute as pc

NAME = pa.dictionary(pa.int32(), pa.string())


def _field(name: str, kind: pa.DataType, meaning: str, null: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"description": meaning})


PREDICTIONS = pa.schema(
    [
        _field("image_id", pa.string(), "unique in the data set: path below its root, shard#row, or shard/member", null=False),
        _field("label", pa.int32(), "true class in the checkpoint's order; null where the data has none"),
        _field("label_name", NAME, "its name in the checkpoint; null where it has none"),
        _field("prediction", pa.int32(), "top-1 class; null where the image could not be read"),
        _field("predicted_name", NAME, "its name in the checkpoint; null where it has none"),
        _field("top5", pa.list_(pa.int32()), "best classes, best first; null on error"),
        _field("top5_probability", pa.list_(pa.float32()), "softmax probabilities beside top5; null on error"),
        _field(
            "held_prediction",
            pa.int32(),
            "best of the classes the data holds, where those are fewer than the checkpoint's; null on error",
        ),
        _field("correct", pa.bool_(), "prediction == label; null without a label; false on error with one"),
        _field("error", pa.string(), "why there is no prediction, in one line; null where there is one"),
        _field("host", pa.string(), "host that classified the image (on error: that handled it)", null=False),
        _field("mesh", pa.string(), "device that classified the image, unique in the cluster, e.g. host/0-3", null=False),
        _field("batch", pa.int64(), "batch of its mesh's actor the image was in; null on error"),
        _field("started_at", pa.timestamp("us", tz="UTC"), "when the device took that batch; null on error"),
        _field("batch_seconds", pa.float64(), "seconds that batch kept the device; null on error"),
        _field("run_id", pa.string(), "the run that wrote the row", null=False),
    ],
    metadata={"schema": "loudbox-vit/predictions/3"},
)

NAMES = {"label_name": "label", "predicted_name": "prediction"}  # Columns of names -> the columns of their classes
ANSWERS = pa.schema([field for field in PREDICTIONS if field.name not in NAMES])
"""The rows as a device's answers make them, without names."""


def named_rows(rows: pa.Table, class_names: pa.Array) -> pa.Table:
    """The rows in the schema PREDICTIONS, with names where they lack. class_names: the checkpoint's, by class; none beyond."""
    columns = dict(zip(rows.column_names, rows.columns, strict=True))
    for name in NAMES.keys() - columns.keys():
        number = columns[NAMES[name]].combine_chunks()
        known = pc.if_else(pc.less(number, len(class_names)), number, None)
        columns[name] = class_names.take(known).dictionary_encode()
    return pa.Table.from_arrays([columns[name] for name in PREDICTIONS.names], schema=PREDICTIONS)

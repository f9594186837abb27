"""What rounds on 1, 2, 4, ... meshes add up to: a table of FPS and efficiency, and the verdict on what bounds them."""

import pyarrow as pa

from jobs.measuring.rounds import Round
from jobs.measuring.utilisation import WAITING, bound
from jobs.reporting.columns import described
from jobs.running.terminal import one_line
from jobs.running.words import counted

LEAST_SECONDS = 10.0  # A round shorter than this says little: its ramps, some 0.1 s at each end, are more than 1% of it
SCALING = described(
    ("scaling", pa.string(), "weak: the same work per mesh at every size; strong: the same work in all"),
    ("meshes", pa.int32(), "meshes at work"),
    ("images", pa.int64(), "images of one round"),
    ("seconds", pa.float64(), "of the median round, from first to last batch; start-up and compile excluded"),
    ("fps", pa.float64(), "images / seconds of the median round; the whole system"),
    ("fps_low", pa.float64(), "of the slowest round"),
    ("fps_high", pa.float64(), "of the fastest round"),
    ("rounds", pa.int32(), "times each size ran, the sizes in turn"),
    ("efficiency", pa.float64(), "fps / (meshes x fps of one mesh), of the same kind of scaling"),
    ("device", pa.float64(), "share of the median round's time that batches kept the meshes"),
    ("host_loop", pa.float64(), "CPU time of the busiest thread that drives a device / seconds; null with data"),
    ("decode_cores", pa.float64(), "CPU time of reading and decoding / (cores Ray has for it x seconds); null without"),
    ("driver", pa.float64(), "CPU time of the job's own process / seconds"),
    ("network", pa.float64(), "share of its speed of the interface that carried most; null where not known"),
    ("object_store", pa.float64(), "largest share of the cluster's object store in use; null where not known"),
    *((f"wait_{why}", pa.float64(), f"share of mesh time waiting {text}; null without data") for why, text in WAITING.items()),
    ("bound", pa.string(), "what of these bounds the FPS: the part that is busy, else the longest wait; unknown without data"),
    ("too_short", pa.bool_(), f"whether the median round took less than {LEAST_SECONDS:g} s"),
    ("data", pa.string(), "what was classified: random images reach the devices without any pipeline"),
    ("description", pa.string(), "what ran; starts with 'simulated' where nothing did"),
)


def scaling_table(measured: dict[tuple[str, int], list[Round]], data: str) -> pa.Table:
    """Schema SCALING from the rounds of each (kind of scaling, meshes); the first of a kind must be one mesh."""
    rows = []
    one: dict[str, float] = {}
    for (scaling, meshes), rounds in measured.items():
        ordered = sorted(rounds, key=lambda each: each.fps)
        median = ordered[(len(ordered) - 1) // 2]
        one.setdefault(scaling, median.fps)
        rows.append(
            {
                "scaling": scaling,
                "meshes": meshes,
                "images": median.images,
                "seconds": median.seconds,
                "fps": median.fps,
                "fps_low": ordered[0].fps,
                "fps_high": ordered[-1].fps,
                "rounds": len(ordered),
                "efficiency": median.fps / (meshes * one[scaling]),
                **median.busy,
                **{f"wait_{reason}": share for reason, share in median.waits.items()},
                "bound": bound(median.busy, median.waits),
                "too_short": median.seconds < LEAST_SECONDS,
                "data": data,
                "description": median.description,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCALING)


def verdict(table: pa.Table) -> str:
    """One line: what bounds the largest size, and how busy everything was that could be measured."""
    last = table.to_pylist()[-1]
    alone, with_data = ("device", "host_loop", "driver"), ("device", "decode_cores", "driver", "network", "object_store")
    shares = {part.replace("_", " "): last[part] for part in (with_data if last["host_loop"] is None else alone)}
    busy = ", ".join(f"{part} unknown" if share is None else f"{part} {share:.0%}" for part, share in shares.items())
    return f"bound with {counted(last['meshes'], 'mesh')}: {last['bound']} (busy: {busy})"


def shortcoming(table: pa.Table) -> str:
    """Why some figures should not be quoted; empty when all may be."""
    shortest = min(table["seconds"].to_pylist())
    told = f"too short to quote: a round took {shortest:.1f} s, below {LEAST_SECONDS:g} s; raise --iterations or the data"
    return told if shortest < LEAST_SECONDS else ""


def terminal_table(table: pa.Table) -> str:
    lines = [f"{'scaling':<9}{'meshes':>7}{'images':>11}{'seconds':>10}{'FPS':>12}{'efficiency':>12}{'device':>9}  bound by"]
    for row in table.to_pylist():
        lines.append(
            f"{row['scaling']:<9}{row['meshes']:>7}{row['images']:>11,}{row['seconds']:>10.2f}{row['fps']:>12,.1f}"
            f"{row['efficiency']:>12.1%}{row['device']:>9.1%}  {row['bound']}{'  (too short)' if row['too_short'] else ''}"
        )
    lines += [f"of: {table['data'][0]}, median of {table['rounds'][0]} rounds", f"device: {table['description'][0]}"]
    lines.append(verdict(table))
    if short := shortcoming(table):
        lines.append(f"warning: {short}")
    return "\n".join(map(one_line, lines))

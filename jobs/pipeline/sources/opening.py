"""Tell a data set's layout by what its URI holds."""

import os
from dataclasses import replace
from functools import partial
from itertools import groupby, islice

from pyarrow.fs import FileType

from jobs.pipeline.labels import BY_FOLDER, BY_ORDER, LabelSpace, asked
from jobs.pipeline.sources.arrow_files import ArrowFiles
from jobs.pipeline.sources.hub import is_hub, locate
from jobs.pipeline.sources.image_files import ImageFiles
from jobs.pipeline.sources.labels_file import digest_of, metadata_of
from jobs.pipeline.sources.listing import (
    IMAGE_EXTENSIONS,
    KINDS,
    FileSet,
    LeftOut,
    entries,
    has_extension,
    is_image,
    join,
    split_of,
    walk,
)
from jobs.pipeline.sources.parquet import ParquetShards
from jobs.pipeline.sources.source import Source, printable
from jobs.pipeline.sources.tar_samples import MEMBERS
from jobs.pipeline.sources.webdataset import TarShards
from jobs.storage.address import absolute, below, is_uri, parent, shown, without_query
from jobs.storage.files import look
from vit_actor.errors import UserError

SAMPLED = 20  # Folders that are looked into to tell which level names the classes


def open_source(
    uri: str, *, checkpoint_classes: list[str], labels: str | None = None, limit: int | None = None, images_per_shard: int = 512
) -> Source:
    """The data set at a local path or URI: a folder of class folders, a flat folder, Parquet or tar shards, or one file.

    uri: where there are several splits, validation is taken, or the one that ?split=<name> says. * and ? and {000..010} may stand
        in the last part of a path to Parquet or tar files. hf://datasets/<owner>/<name> is its validation split; see hub.locate.
    checkpoint_classes: class names by index, which labels are mapped to.
    labels: where labels are, if not where the layout has them: a file for images or tars (see labels_file), a column for
        Parquet, whose integers are then taken as the checkpoint's indices, a member of tars. Or how they are to be read, one of
        READINGS, or both with a colon between. "none" ignores all labels.
    limit: the first so many images in listing order only.
    images_per_shard: the most a shard has; one of Parquet rows has more where a single row group has.
    Raises UserError if there is nothing there, nothing that is an image, or more than one kind of thing.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1")
    use, reading, where = asked(labels)
    space = LabelSpace(tuple(checkpoint_classes), reading, where if reading != BY_FOLDER else None)
    uri, split = _without_split(locate(uri) if is_hub(uri) else uri)
    folder, names = _locate(uri)
    kind = _kind_of_name(names) if names else _kind_of_folder(folder)
    if reading in (BY_FOLDER, BY_ORDER) and (kind in ("tar", "images") or (reading == BY_FOLDER and kind != "class folders")):
        raise UserError(f"--labels {labels}: {shown(uri)} has no class folders")
    if kind in ("Parquet", "Arrow"):
        files = FileSet(folder, KINDS[kind], names).of_split(split)
        files.check_no_table()
        rows = ParquetShards if kind == "Parquet" else ArrowFiles
        return rows(files, space, use, where, limit, images_per_shard)
    if kind == "tar":
        member = where if where and (where in MEMBERS or where.startswith("json.")) else None
        file, digest = (absolute(where), digest_of(where)) if where and not member else (None, None)
        return TarShards(FileSet(folder, KINDS[kind], names).of_split(split), space, use, file, digest, member, limit)
    if split is not None:
        raise UserError(f"{shown(uri)}: ?split= is for Parquet and tar files; give the folder of the split")
    images = partial(ImageFiles, folder, use_labels=use, limit=limit, images_per_shard=images_per_shard)
    if reading == BY_FOLDER:
        if not (where or "").isdecimal() or where == "0":
            raise UserError(f"--labels {labels}: give the level of the folders, 1 for those in --data")
        return images(space=space, level=int(where or 0) - 1)
    beside = metadata_of(folder) if use and where is None and names is None and not reading else None
    if kind == "images" or beside or where:
        file = absolute(where or beside or "") if where or beside else None
        space = replace(space, given=where or beside)
        return images(space=space, labels=file, beside=beside is not None, deep=kind == "class folders", only=names)
    if reading == BY_ORDER:
        return images(space=space, level=0, order=_folder_order(folder, space))
    return images(space=space, level=_label_level(folder, space, use))


def _without_split(uri: str) -> tuple[str, str | None]:
    """The URI without ?split=<name> behind it, and the split. Any other ? in a local path is a wildcard, or part of a name."""
    if is_uri(uri):
        uri, settings = without_query(uri, "split")
        return uri, settings.get("split")
    path, found, split = uri.rpartition("?split=")
    return (path, split) if found and "/" not in split and not os.path.exists(uri) else (uri, None)


def _locate(uri: str) -> tuple[str, str | None]:
    """(folder URI, file name or pattern in it), or (folder URI, None) for all that a folder holds."""
    kind = look(uri).type
    folder, name = parent(uri)
    if kind == FileType.Directory:
        return uri, None
    if kind == FileType.Unknown:
        raise UserError(f"{shown(uri)}: is no file but a pipe, a socket or a device; give files or a folder of them")
    if kind != FileType.File and not any(mark in name for mark in "*?{"):
        raise UserError(f"{shown(uri)}: no such file or directory; check the path")
    if kind != FileType.File and is_image(name):
        raise UserError(f"{shown(uri)}: patterns are for Parquet and tar files; give the images' folder")
    return folder, name


def _kind_of_name(name: str) -> str:
    for kind, extensions in KINDS.items():
        if has_extension(name, extensions):
            return kind
    raise UserError(f"{name}: not an image, a Parquet file or a tar")


def _kind_of_folder(uri: str) -> str:
    """images, Parquet, tar, Arrow or "class folders": by the folder's own files, else by those of its folders, first found."""
    level, others = [""], LeftOut()
    while level:
        deeper: list[str] = []
        for folder in level:
            found, address = set[str](), below(uri, folder) if folder else uri
            for entry in entries(address, others, folder):
                kinds = {kind for kind, extensions in KINDS.items() if has_extension(entry.name, extensions)}
                if entry.is_folder:
                    deeper.append(join(folder, entry.name))
                elif kinds:
                    found |= kinds
                else:
                    others.add_file(join(folder, entry.name))
            if len(found) > 1:
                raise UserError(f"{shown(address)}: holds both {' and '.join(sorted(found))}; give one of them")
            for kind in found:
                return "class folders" if folder and kind == "images" else kind
        level = sorted(deeper)
    holds = "; ".join(f"{count:,} {kind}" for kind, count in others.told().items())
    raise UserError(f"{shown(uri)}: no images, Parquet files or tar shards in it" + (f", but {holds}" if holds else ""))


def _label_level(folder: str, space: LabelSpace, use_labels: bool) -> int:
    """At which level below a data set's folder its folders name the classes, from 0: by the first folders of a few of them.

    That at which all of these name a class, by name or WordNet id rather than by a number; the last one where there is none.
    Raises UserError where the folders are splits, and where several levels are equally sure and differ.
    """
    names = _folders(folder)
    splits = [name for name in names if split_of(name)]
    known = all(space.how_sure(name) == 2 for name in names)
    if len(splits) > 1 and not (known and len(splits) < len(names)):
        way = f"give one of them, or pass --labels {BY_FOLDER}:1 if they are classes"
        raise UserError(f"{shown(folder)}: its folders are splits ({', '.join(splits)}); {way}")
    if not use_labels:
        return 0
    paths, each = list[list[str]](), max(1, SAMPLED // max(1, len(names)))
    for name in names[:: max(1, len(names) // SAMPLED)]:
        places = groupby(path.rpartition("/")[0] for path, _ in walk(folder, name, IMAGE_EXTENSIONS))
        paths += [place.split("/") for place, _ in islice(places, each)]
    levels = list(zip(*paths, strict=False)) or [()]  # names of a few folders at each level
    sure = [min(map(space.how_sure, names), default=0) for names in levels]
    best = [level for level in range(len(levels)) if sure[level] == max(sure)]
    if max(sure) and len({tuple(map(space.index, levels[level])) for level in best}) > 1:
        ways = " or ".join(f"--labels {BY_FOLDER}:{level + 1} ({printable(levels[level][-1])!r})" for level in best)
        raise UserError(f"{shown(folder)}: folders at several levels may be the classes; pass {ways}")
    return best[-1]


def _folder_order(folder: str, space: LabelSpace) -> tuple[str, ...]:
    """The data set's folders by name, which are the classes in that order, as torchvision's ImageFolder has it.

    Raises UserError where there are not as many as the checkpoint has classes.
    """
    names = _folders(folder)
    if len(names) != len(space.class_names):
        classes = f"{len(names):,} folders for the checkpoint's {len(space.class_names):,} classes"
        raise UserError(f"{shown(folder)}: {classes}; --labels {BY_ORDER} needs a folder a class")
    return tuple(names)


def _folders(folder: str) -> list[str]:
    return sorted(entry.name for entry in entries(folder) if entry.is_folder)

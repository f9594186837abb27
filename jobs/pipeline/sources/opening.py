"""Tell a data set's layout by what its URI holds."""

import os
from dataclasses import replace

from pyarrow.fs import FileType

from jobs.pipeline.labels import BY_FOLDER, BY_ORDER, Asked, LabelSpace
from jobs.pipeline.sources.arrow_files import ArrowFiles
from jobs.pipeline.sources.class_folders import ClassFolders, folder_order, label_level
from jobs.pipeline.sources.flat_folder import FlatFolder
from jobs.pipeline.sources.hub import is_hub, locate
from jobs.pipeline.sources.labels_file import digest_of, metadata_of
from jobs.pipeline.sources.listing import KINDS, FileSet, LeftOut, entries, has_extension, is_image, join
from jobs.pipeline.sources.parquet import ParquetShards
from jobs.pipeline.sources.source import Source
from jobs.pipeline.sources.webdataset import MEMBERS, TarShards
from jobs.storage.address import absolute, below, is_uri, parent, shown, without_query
from jobs.storage.files import look
from vit_actor.errors import UserError


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
    use, reading, where = Asked.of(labels)
    space = LabelSpace(tuple(checkpoint_classes), reading, where if reading != BY_FOLDER else None)
    if is_hub(uri):
        uri = locate(uri)
    uri, asked = without_query(uri, "split") if is_uri(uri) else _local_split(uri)
    split = asked.get("split")
    folder, names = _locate(uri)
    kind = _kind_of_name(names) if names else _kind_of_folder(folder)
    if reading in (BY_FOLDER, BY_ORDER) and (kind in ("tar", "images") or (reading == BY_FOLDER and kind != "class folders")):
        raise UserError(f"--labels {labels}: {shown(uri)} has no class folders")
    if kind in ("Parquet", "Arrow"):
        files = FileSet(folder, KINDS[kind], names).of_split(split)
        files.check_no_table()
        given = files, space, use, where, limit, images_per_shard
        return ParquetShards(*given) if kind == "Parquet" else ArrowFiles(*given)
    if kind == "tar":
        member = where if where and (where in MEMBERS or where.startswith("json.")) else None
        file, digest = (absolute(where), digest_of(where)) if where and not member else (None, None)
        return TarShards(FileSet(folder, KINDS[kind], names).of_split(split), space, use, file, digest, member, limit)
    if split is not None:
        raise UserError(f"{shown(uri)}: ?split= is for Parquet and tar files; give the folder of the split")
    if kind == "class folders" and reading == BY_FOLDER:
        level = label_level(folder, space, use, where)
        return ClassFolders(folder, space, use, level, limit, images_per_shard)
    beside = metadata_of(folder) if use and where is None and names is None and not reading else None
    if kind == "images" or beside or where:
        file = absolute(where or beside or "") if where or beside else None
        deep, space = kind == "class folders", replace(space, given=where or beside)
        return FlatFolder(folder, space, use, file, limit, images_per_shard, names, deep, beside is not None)
    order = folder_order(folder, space) if reading == BY_ORDER else None
    level = 0 if order else label_level(folder, space, use)
    return ClassFolders(folder, space, use, level, limit, images_per_shard, order)


def _local_split(path: str) -> tuple[str, dict[str, str]]:
    """A local path without ?split=<name> behind it, and the split. A ? is a wildcard, or part of a name, otherwise."""
    folder, found, split = path.rpartition("?split=")
    return (folder, {"split": split}) if found and "/" not in split and not os.path.exists(path) else (path, {})


def _locate(uri: str) -> tuple[str, str | None]:
    """(folder URI, file name or pattern in it), or (folder URI, None) for all that a folder holds."""
    kind = look(uri).type
    if kind == FileType.Directory:
        return uri, None
    folder, name = parent(uri)
    if kind == FileType.File:
        return folder, name
    if kind == FileType.Unknown:
        raise UserError(f"{shown(uri)}: is no file but a pipe, a socket or a device; give files or a folder of them")
    if not any(mark in name for mark in "*?{"):
        raise UserError(f"{shown(uri)}: no such file or directory; check the path")
    if is_image(name):
        raise UserError(f"{shown(uri)}: patterns are for Parquet and tar files; give the images' folder")
    return folder, name


def _kind_of_name(name: str) -> str:
    for kind, extensions in KINDS.items():
        if has_extension(name, extensions):
            return kind
    raise UserError(f"{name}: not an image, a Parquet file or a tar")


def _kind_of_folder(uri: str) -> str:
    """images, Parquet, tar, or "class folders": by the folder's own files, else by those of its folders, first found."""
    level, depth, others = [""], 0, LeftOut()
    while level:
        deeper: list[str] = []
        for folder in level:
            found: set[str] = set()
            for entry in entries(below(uri, folder) if folder else uri, others, folder):
                if entry.is_folder:
                    deeper.append(join(folder, entry.name))
                elif kinds := {kind for kind, extensions in KINDS.items() if has_extension(entry.name, extensions)}:
                    found |= kinds
                else:
                    others.add_file(join(folder, entry.name))
            if len(found) > 1:
                where = shown(below(uri, folder) if folder else uri)
                raise UserError(f"{where}: holds both {' and '.join(sorted(found))}; give one of them")
            if found:
                kind = found.pop()
                return "class folders" if depth and kind == "images" else kind
        level, depth = sorted(deeper), depth + 1
    holds = "; ".join(f"{count:,} {kind}" for kind, count in others.told().items())
    raise UserError(f"{shown(uri)}: no images, Parquet files or tar shards in it" + (f", but {holds}" if holds else ""))

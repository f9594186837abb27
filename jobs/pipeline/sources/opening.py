"""Tell a data set's layout by what its URI holds."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

from pyarrow.fs import FileType

from jobs.pipeline.labels import LabelSpace
from jobs.pipeline.sources.arrow_files import ArrowFiles
from jobs.pipeline.sources.class_folders import ClassFolders, label_level
from jobs.pipeline.sources.flat_folder import FlatFolder
from jobs.pipeline.sources.hub import is_hub, locate
from jobs.pipeline.sources.labels_file import digest_of, metadata_of
from jobs.pipeline.sources.listing import (
    IMAGE_EXTENSIONS,
    PARQUET_EXTENSIONS,
    SPLITS,
    TAR_EXTENSIONS,
    FileSet,
    entries,
    has_extension,
    join,
    split_of,
)
from jobs.pipeline.sources.parquet import ParquetShards
from jobs.pipeline.sources.source import Source
from jobs.pipeline.sources.webdataset import TarShards
from jobs.storage.address import absolute, below, is_uri, parent, shown, without_query
from jobs.storage.failure import patiently
from jobs.storage.files import open_storage
from vit_actor.errors import UserError

KINDS = {"images": IMAGE_EXTENSIONS, "Parquet": PARQUET_EXTENSIONS, "tar": TAR_EXTENSIONS, "Arrow": (".arrow",)}
NO_LABELS = "none"


def open_source(
    uri: str,
    *,
    checkpoint_classes: list[str],
    labels: str | None = None,
    limit: int | None = None,
    images_per_shard: int = 512,
) -> Source:
    """The data set at a local path or URI: a folder of class folders, a flat folder, Parquet or tar shards, or one file.

    uri: where there are several splits, validation is taken, or the one that ?split=<name> says.
        * and ? and {000..010} may stand in the last part of a path to Parquet or tar files.
        hf://datasets/<owner>/<name> is its validation split; see hub.locate.
    checkpoint_classes: class names by index, which labels are mapped to.
    labels: where labels are, if not where the layout has them: a file for a flat folder or tars (see labels_file), a column
        for Parquet, whose integers are then taken as the checkpoint's indices. "none" ignores all labels.
    limit: the first so many images in listing order only.
    images_per_shard: the most a shard has; one of Parquet rows has more where a single row group has.
    Raises UserError if there is nothing there, nothing that is an image, or more than one kind of thing.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1")
    space = LabelSpace(tuple(checkpoint_classes))
    use_labels = labels != NO_LABELS
    labels = labels if use_labels else None
    if is_hub(uri):
        uri = locate(uri)
    uri, asked = without_query(uri, "split") if is_uri(uri) else _local_split(uri)
    split = asked.get("split")
    folder, names = _locate(uri)
    kind = _kind_of_name(names) if names else _kind_of_folder(folder)
    if kind == "Parquet":
        files = _one_split(FileSet(folder, PARQUET_EXTENSIONS, names), split)
        return ParquetShards(files, space, use_labels, labels, limit, images_per_shard)
    if kind == "Arrow":
        arrow = _one_split(FileSet(folder, KINDS["Arrow"], names), split)
        return ArrowFiles(arrow, space, use_labels, labels, limit, images_per_shard)
    if kind == "tar":
        where, digest = (absolute(labels), digest_of(labels)) if labels else (None, None)
        return TarShards(_one_split(FileSet(folder, TAR_EXTENSIONS, names), split), space, use_labels, where, digest, limit)
    if split is not None:
        raise UserError(f"{shown(uri)}: ?split= is for Parquet and tar files; give the folder of the split")
    beside = metadata_of(folder) if use_labels and labels is None and names is None else None
    if kind == "images" or beside:
        labels = labels or beside
        deep = kind == "class folders"
        where = labels and absolute(labels)
        return FlatFolder(folder, space, use_labels, where, limit, images_per_shard, only=names, deep=deep)
    _refuse(labels, "class folders are their own labels")
    return ClassFolders(folder, space, use_labels, label_level(folder, space), limit, images_per_shard)


def _one_split(files: FileSet, split: str | None) -> FileSet:
    """The files of one split: the one that is asked for, else validation where there are several, as on the hub."""
    there = sorted({split_of(name) for name, _ in files.files()} - {None}, key=str)
    if split is None and (len(there) < 2 or files.names is not None):
        return files
    wanted = SPLITS.get(split or "validation", split)
    if wanted not in there:
        found = f"it has {', '.join(map(str, there))}" if there else "its files' names tell no splits"
        raise UserError(
            f"{shown(files.folder)}: no split {split or 'validation'!r}; {found}: add ?split=<name>, or give the files"
        )
    return replace(files, split=wanted)


def _local_split(path: str) -> tuple[str, dict[str, str]]:
    """A local path without ?split=<name> behind it, and the split. A ? is a wildcard, or part of a name, otherwise."""
    folder, found, split = path.rpartition("?split=")
    return (folder, {"split": split}) if found and "/" not in split and not os.path.exists(path) else (path, {})


def _locate(uri: str) -> tuple[str, str | None]:
    """(folder URI, file name or pattern in it), or (folder URI, None) for all that a folder holds."""
    filesystem, path = open_storage(uri)
    kind = patiently(partial(filesystem.get_file_info, path), uri, "look at").type
    if kind == FileType.Directory:
        return uri, None
    folder, name = parent(uri)
    if kind == FileType.File:
        return folder, name
    if not any(mark in name for mark in "*?{"):
        raise UserError(f"{shown(uri)}: no such file or directory; check the path")
    if has_extension(name, IMAGE_EXTENSIONS):
        raise UserError(f"{shown(uri)}: patterns are for Parquet and tar files; give the images' folder")
    return folder, name


def _kind_of_name(name: str) -> str:
    for kind, extensions in KINDS.items():
        if has_extension(name, extensions):
            return kind
    raise UserError(f"{name}: not an image, a Parquet file or a tar")


def _kind_of_folder(uri: str) -> str:
    """images, Parquet, tar, or "class folders": by the folder's own files, else by those of its folders, first found."""
    level, depth = [""], 0
    while level:
        deeper: list[str] = []
        for folder in level:
            found: set[str] = set()
            for entry in entries(below(uri, folder) if folder else uri):
                if entry.is_folder:
                    deeper.append(join(folder, entry.name))
                else:
                    found |= {kind for kind, extensions in KINDS.items() if has_extension(entry.name, extensions)}
            if len(found) > 1:
                where = shown(below(uri, folder) if folder else uri)
                raise UserError(f"{where}: holds both {' and '.join(sorted(found))}; give one of them")
            if found:
                kind = found.pop()
                return "class folders" if depth and kind == "images" else kind
        level, depth = sorted(deeper), depth + 1
    raise UserError(f"{shown(uri)}: no images, Parquet files or tar shards in it")


def _refuse(labels: str | None, reason: str) -> None:
    if labels is not None:
        raise UserError(f"labels {labels}: {reason}; leave it out, or pass --labels {NO_LABELS} to ignore labels")

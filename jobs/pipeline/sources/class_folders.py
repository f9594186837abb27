"""A tree of class folders: each image's label is the name of a folder it is in."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from jobs.pipeline.labels import LabelSpace
from jobs.pipeline.sources.fingerprint import SetHash, fingerprint
from jobs.pipeline.sources.image_files import cut_shards, read_files
from jobs.pipeline.sources.in_order import in_order
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, SPLITS, entries, extension, open_place, place_errors, walk
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable, root_count
from jobs.storage import shown
from vit_actor.errors import UserError

SAMPLED = 20
"""Folders that are looked into to tell which level names the classes."""


@dataclass(frozen=True)
class ClassFolders:
    """folder/<class>/image.jpg, maybe with folders above or below: one level names the classes throughout, see label_level.

    Listing order: folders by name, in each its own files by name and then its folders.
    """

    folder: str
    space: LabelSpace
    use_labels: bool
    level: int
    limit: int | None
    images_per_shard: int

    def survey(self) -> Survey:
        contents, left_out, classes = SetHash(), Counter[str](), set[int]()
        with place_errors(self.folder):
            for part, others, labels in in_order(self._survey_folder, self._folders(left_out), processes=True):
                contents.merge(part)
                left_out += others
                classes |= labels
                if self.limit is not None and contents.count >= self.limit:
                    break
        settings = {"labels": self.use_labels, "limit": self.limit, "images_per_shard": self.images_per_shard}
        images = contents.count if self.limit is None else min(contents.count, self.limit)
        labels_from = "folder names" if self.use_labels else ""
        digest = fingerprint("class folders", contents, **settings)
        held = self.space.fewer(classes) if self.limit is None else None
        return Survey(images, self.use_labels, digest, labels_from, dict(left_out), held)

    def roots(self) -> list[str]:
        """Runs of class folders, as JSON lists; one of all folders under a limit, which counts across them."""
        folders = self._folders()
        size = -(-len(folders) // (1 if self.limit is not None else root_count(len(folders))))
        return [json.dumps(folders[i : i + size]) for i in range(0, len(folders), size)]

    def shards(self, root: str) -> Iterator[Shard]:
        images = (image for folder in json.loads(root) for image in self._images(folder, ordered=True))
        labelled = ((path, label) for path, label, _ in islice(images, self.limit))
        return cut_shards(labelled, json.loads(root)[0], self.images_per_shard)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        return read_files(self.folder, shard, wanted)

    def _folders(self, left_out: Counter[str] | None = None) -> list[str]:
        filesystem, base = open_place(self.folder)
        with place_errors(self.folder):
            found = list(entries(filesystem, base, left_out))
        if left_out is not None:
            left_out.update(extension(entry.name) for entry in found if not entry.is_folder)
        return sorted(entry.name for entry in found if entry.is_folder)

    def _survey_folder(self, folder: str) -> tuple[SetHash, Counter[str], set[int]]:
        contents, left_out, classes = SetHash(), Counter[str](), set[int]()
        for path, label, size in self._images(folder, ordered=False, left_out=left_out):
            contents.add(path, size)
            if label is not None:
                classes.add(label)
        return contents, left_out, classes

    def _images(
        self, folder: str, *, ordered: bool, left_out: Counter[str] | None = None
    ) -> Iterator[tuple[str, int | None, int]]:
        """(path, label, size) of the images under one of the class folders."""
        filesystem, base = open_place(self.folder)
        parent, label = None, None
        for path, size in walk(filesystem, base, folder, IMAGE_EXTENSIONS, ordered=ordered, left_out=left_out):
            if parent != (parent := path.rpartition("/")[0]):
                label = self._label(parent)
            yield path, label, size

    def _label(self, folder: str) -> int | None:
        if not self.use_labels:
            return None
        names = folder.split("/")
        try:
            return self.space.index(names[min(self.level, len(names) - 1)])
        except UserError as error:
            where = f"{shown(self.folder)}: folder {printable(folder)!r}"
            raise UserError(f"{where}: {error}; or pass --labels none to predict only") from None


def label_level(folder: str, space: LabelSpace) -> int:
    """At which level below a data set's folder its folders name the classes, from 0: by the first image of a few of them.

    That at which all of these name a class, by name or WordNet id rather than by a number, else the deepest; the last one where
    there is none. Raises UserError where the folders are splits.
    """
    filesystem, base = open_place(folder)
    with place_errors(folder):
        names = sorted(entry.name for entry in entries(filesystem, base) if entry.is_folder)
        if len(names) > 1 and all(name.lower() in SPLITS for name in names):
            raise UserError(f"{shown(folder)}: its folders are splits ({', '.join(names)}); give one of them")
        paths = []
        for name in names[:: max(1, len(names) // SAMPLED)]:
            first = next(walk(filesystem, base, name, IMAGE_EXTENSIONS, ordered=True), None)
            if first is not None:
                paths.append(first[0].split("/")[:-1])
    levels = range(min(map(len, paths), default=1))
    sure = {level: min((space.how_sure(path[level]) for path in paths), default=0) for level in levels}
    return max(levels, key=lambda level: (sure[level], level))

"""A tree of class folders: each image's label is the name of a folder it is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice

from jobs.pipeline.labels import LabelError, LabelSpace
from jobs.pipeline.sources.image_files import ImageFile, cut_shards, read_files
from jobs.pipeline.sources.in_order import in_order
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, SPLITS, entries, extension, walk
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable
from jobs.storage.address import shown
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

    def shards(self) -> Generator[Shard, None, Survey]:
        count, left_out, classes = 0, Counter[str](), set[int]()

        def images() -> Iterator[ImageFile]:
            nonlocal count
            for found, others in in_order(self._list_folder, self._folders(left_out), survey=True):
                left_out.update(others)
                classes.update(image.label for image in found if image.label is not None)
                count += len(found)
                yield from found

        yield from cut_shards(islice(images(), self.limit), self.images_per_shard)
        labels_from = "folder names" if self.use_labels else ""
        if self.limit is not None:
            return Survey(min(count, self.limit), self.use_labels, labels_from, dict(left_out))
        return Survey(count, self.use_labels, labels_from, dict(left_out), self.space.fewer(classes))

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        return read_files(self.folder, shard, wanted)

    def _folders(self, left_out: Counter[str]) -> list[str]:
        found = list(entries(self.folder, left_out))
        left_out.update(extension(entry.name) for entry in found if not entry.is_folder)
        return sorted(entry.name for entry in found if entry.is_folder)

    def _list_folder(self, folder: str) -> tuple[list[ImageFile], Counter[str]]:
        """The images under one of the class folders, and what lies beside them."""
        images, left_out = list[ImageFile](), Counter[str]()
        parent, label = None, None
        for path, size in walk(self.folder, folder, IMAGE_EXTENSIONS, ordered=True, left_out=left_out):
            if parent != (parent := path.rpartition("/")[0]):
                label = self._label(parent)
            images.append(ImageFile(path, label, size))
        return images, left_out

    def _label(self, folder: str) -> int | None:
        if not self.use_labels:
            return None
        names = folder.split("/")
        try:
            return self.space.index(names[min(self.level, len(names) - 1)])
        except LabelError as error:
            where = f"{shown(self.folder)}: folder {printable(folder)!r}"
            raise UserError(f"{where}: {error}; or pass --labels none to predict only") from None


def label_level(folder: str, space: LabelSpace) -> int:
    """At which level below a data set's folder its folders name the classes, from 0: by the first image of a few of them.

    That at which all of these name a class, by name or WordNet id rather than by a number, else the deepest; the last one where
    there is none. Raises UserError where the folders are splits.
    """
    names = sorted(entry.name for entry in entries(folder) if entry.is_folder)
    if len(names) > 1 and all(name.lower() in SPLITS for name in names):
        raise UserError(f"{shown(folder)}: its folders are splits ({', '.join(names)}); give one of them")
    paths = []
    for name in names[:: max(1, len(names) // SAMPLED)]:
        first = next(walk(folder, name, IMAGE_EXTENSIONS, ordered=True), None)
        if first is not None:
            paths.append(first[0].split("/")[:-1])
    levels = range(min(map(len, paths), default=1))
    sure = {level: min((space.how_sure(path[level]) for path in paths), default=0) for level in levels}
    return max(levels, key=lambda level: (sure[level], level))

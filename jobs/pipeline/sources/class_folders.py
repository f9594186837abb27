"""A tree of class folders: each image's label is the name of the folder it is in."""

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
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, entries, extension, open_place, place_errors, walk
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable, root_count
from jobs.pipeline.storage import shown
from vit_actor.errors import UserError


@dataclass(frozen=True)
class ClassFolders:
    """folder/<class>/image.jpg, at any depth: the nearest enclosing folder that names a class is the label.

    Listing order: folders by name, in each its own files by name and then its folders.
    """

    folder: str
    space: LabelSpace
    use_labels: bool
    limit: int | None
    images_per_shard: int

    def survey(self) -> Survey:
        contents, left_out = SetHash(), Counter[str]()
        with place_errors(self.folder):
            for part, others in in_order(self._survey_folder, self._folders(left_out)):
                contents.merge(part)
                left_out += others
                if self.limit is not None and contents.count >= self.limit:
                    break
        settings = {"labels": self.use_labels, "limit": self.limit, "images_per_shard": self.images_per_shard}
        images = contents.count if self.limit is None else min(contents.count, self.limit)
        labels_from = "folder names" if self.use_labels else ""
        return Survey(images, self.use_labels, fingerprint("class folders", contents, **settings), labels_from, dict(left_out))

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

    def _survey_folder(self, folder: str) -> tuple[SetHash, Counter[str]]:
        contents, left_out = SetHash(), Counter[str]()
        for path, _, size in self._images(folder, ordered=False, left_out=left_out):
            contents.add(path, size)
        return contents, left_out

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
        for name in reversed(folder.split("/")):
            matches = self.space.matches(name)
            if len(matches) == 1:
                return matches[0]
        try:
            return self.space.index(folder.rpartition("/")[2])
        except UserError as error:
            where = f"{shown(self.folder)}: folder {printable(folder)!r}"
            raise UserError(f"{where}: {error}; or pass labels 'none' to predict only") from None

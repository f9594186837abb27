"""A folder of image files, or one of them: labels in a file, in the names, or none. With a file, also of a tree of folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

from jobs.pipeline.labels import WNID_SUFFIX, LabelError, LabelSpace
from jobs.pipeline.sources.image_files import ImageFile, cut_shards, read_files
from jobs.pipeline.sources.labels_file import Line, label_of, read_labels
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, entries, extension, has_extension, walk
from jobs.pipeline.sources.long_sort import long_sorted
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable
from jobs.storage.address import parent, place, shown
from vit_actor.errors import UserError


@dataclass(frozen=True)
class FlatFolder:
    """folder/ILSVRC2012_val_00000001.JPEG and so on, in the order of their names.

    labels: URI of a labels file, see read_labels; None for those in names such as `..._n01440764.JPEG`.
    only: one file's name, None for all.
    deep: whether images in folders below count too; names are then paths, in the labels file as well.
    """

    folder: str
    space: LabelSpace
    use_labels: bool
    labels: str | None
    limit: int | None
    images_per_shard: int
    only: str | None
    deep: bool = False

    def shards(self) -> Generator[Shard, None, Survey]:
        count, left_out, labelled = 0, Counter[str](), self.labels is not None

        def images() -> Iterator[ImageFile]:
            nonlocal count, labelled
            for image in self._labelled(long_sorted(self._files(left_out))):
                labelled |= image.label is not None
                count += 1
                yield image

        found = images()
        yield from cut_shards(islice(found, self.limit), self.images_per_shard)
        for _ in found:  # beyond the limit, where labels must fit as well
            pass
        looked = "none found (looked for a class in names such as x_n01440764.jpg; --labels FILE names one)"
        labels_from = (self.labels and shown(self.labels)) or ("file names" if labelled else looked)
        told = labels_from if self.use_labels else ""
        return Survey(count if self.limit is None else min(count, self.limit), labelled, told, dict(+left_out))

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        return read_files(self.folder, shard, wanted)

    def _files(self, left_out: Counter[str]) -> Iterator[tuple[str, int]]:
        labels = self._labels_beside()
        if self.deep:
            yield from walk(self.folder, "", IMAGE_EXTENSIONS, ordered=False, left_out=left_out)
            if labels:
                left_out[extension(labels)] -= 1
            return
        for entry in entries(self.folder, left_out):
            if entry.is_folder:
                if self.only is None and any(walk(self.folder, entry.name, IMAGE_EXTENSIONS, ordered=False)):
                    where = f"{shown(self.folder)}: holds images and also folder {printable(entry.name)!r} with images"
                    raise UserError(f"{where}; give one of them")
            elif entry.name == self.only or (self.only is None and has_extension(entry.name, IMAGE_EXTENSIONS)):
                yield entry.name, entry.size
            elif self.only is None and entry.name != labels:
                left_out[extension(entry.name)] += 1

    def _labels_beside(self) -> str | None:
        """The name of the labels file, if it is in the folder."""
        if self.labels is None:
            return None
        folder, name = parent(self.labels)
        return name if place(folder) == place(self.folder) else None

    def _labelled(self, files: Iterator[tuple[str, int]]) -> Iterator[ImageFile]:
        """The files, (name, size) in the names' order, with their labels."""
        if self.labels is None:
            yield from (ImageFile(name, self._suffix(name), size) for name, size in files)
            return
        lines = read_labels(self.labels, self.space, folders=self.deep)
        first = next(lines, None)
        if first is None or first.name is None:
            yield from self._by_order(files, chain(filter(None, [first]), lines))
            return
        labels: dict[str | None, int] = {}
        for name, label in chain([first], lines):
            if labels.setdefault(name, label) != label:
                raise UserError(f"{shown(self.labels)}: two different labels for {name}")
        for name, size in files:
            found = label_of(name, labels)
            if found is None:
                raise UserError(f"{shown(self.labels)}: no label for image {printable(name)}")
            yield ImageFile(name, found, size)

    def _by_order(self, files: Iterator[tuple[str, int]], lines: Iterator[Line]) -> Iterator[ImageFile]:
        """The same where the lines go by the images' order."""
        for count, (file, line) in enumerate(zip_longest(files, lines)):
            if file is None or line is None:
                longer = count + 1 + sum(1 for _ in chain(lines, files))
                labels, images = (longer, count) if file is None else (count, longer)
                raise UserError(f"{shown(self.labels or '')}: {labels} labels for {images} images; give one line an image")
            yield ImageFile(file[0], line.label, file[1])

    def _suffix(self, name: str) -> int | None:
        found = WNID_SUFFIX.fullmatch(name) if self.use_labels else None
        if not found:
            return None
        try:
            return self.space.index(found[1])
        except LabelError as error:
            raise UserError(f"{shown(self.folder)}: {printable(name)}: {error}; or pass --labels none to predict only") from None

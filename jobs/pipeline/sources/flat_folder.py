"""A folder of image files, or one of them: labels in a file, in the names, or none. With a file, also of a tree of folders."""

import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Any

from jobs.pipeline.labels import BY_FOLDER, BY_NAME, WNID_SUFFIX, LabelError, LabelSpace, Readings, predict_only
from jobs.pipeline.sources.image_files import ImageFile, cut_shards, read_files
from jobs.pipeline.sources.labels_file import Labels, Line, read_labels
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, LeftOut, entries, walk
from jobs.pipeline.sources.long_sort import long_sorted
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable
from jobs.storage.address import parent, place, shown
from vit_actor.errors import UserError

LOOKED = "none found (looked for a class in names such as x_n01440764.jpg; --labels FILE names one)"


@dataclass(frozen=True)
class FlatFolder:
    """folder/ILSVRC2012_val_00000001.JPEG and so on, in the order of their names.

    labels: URI of a labels file, see read_labels; None for those in names such as `..._n01440764.JPEG`.
    only: one file's name, None for all.
    deep: whether images in folders below count too; names are then paths, in the labels file as well.
    beside: whether the labels file was found and not given, so that names must not say otherwise.
    """

    folder: str
    space: LabelSpace
    use_labels: bool
    labels: str | None
    limit: int | None
    images_per_shard: int
    only: str | None
    deep: bool = False
    beside: bool = False

    def shards(self) -> Generator[Shard, None, Survey]:
        count, left_out, labelled = 0, LeftOut(), self.labels is not None
        readings = Readings(self.space)

        def images() -> Iterator[ImageFile]:
            nonlocal count, labelled
            for image in self._labelled(long_sorted(self._files(left_out)), readings, left_out):
                labelled |= image.label is not None
                count += 1
                yield image

        found = images()
        yield from cut_shards(islice(found, self.limit), self.images_per_shard)
        for _ in found:  # beyond the limit, where labels must fit as well
            pass
        told = readings.told(shown(self.labels) if self.labels else "file names") if labelled else LOOKED
        return Survey(min(count, self.limit or count), labelled, told if self.use_labels else "", left_out.told())

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        return read_files(self.folder, shard, wanted)

    def _files(self, left_out: LeftOut) -> Iterator[tuple[str, int]]:
        if self.only is not None:
            yield from ((entry.name, entry.size) for entry in entries(self.folder) if entry.name == self.only)
            return
        left_out.but = self._labels_beside()
        for path, size in walk(self.folder, "", IMAGE_EXTENSIONS, ordered=False, left_out=left_out):
            if "/" in path and not self.deep:
                folder = printable(path.partition("/")[0])
                raise UserError(f"{shown(self.folder)}: holds images and also folder {folder!r} with images; give one of them")
            yield path, size

    def _labels_beside(self) -> str | None:
        if self.labels is None:
            return None
        folder, name = parent(self.labels)
        return name if place(folder) == place(self.folder) else None

    def _labelled(self, files: Iterator[tuple[str, int]], readings: Readings, left_out: LeftOut) -> Iterator[ImageFile]:
        """The files, (name, size) in the names' order, with their labels. left_out: is told lines that are of no file."""
        if self.labels is None:
            yield from (ImageFile(name, self._suffix(name, readings), size) for name, size in files)
            return
        lines = read_labels(self.labels, readings)
        first = next(lines, None)
        if first is None or first.name is None:
            yield from self._by_order(files, chain(filter(None, [first]), lines))
            return
        labels, differing, all_named = Labels(self.labels, chain([first], lines)), None, self.beside
        for count, (name, size) in enumerate(files, 1):
            found = labels.of(name, folders=self.deep)
            if found is None:
                raise UserError(f"{shown(self.labels)}: no label for image {printable(name)}")
            if len(labels.used) < count:
                way = "give each line the image's whole name"
                raise UserError(f"{shown(self.labels)}: the line for {printable(name)} is that of another image too; {way}")
            own = self._own(name) if all_named else None
            all_named = own is not None
            if all_named and own != found:
                differing = differing or name
            yield ImageFile(name, found, size)
        if unused := labels.unused():
            left_out.add("labels in its file without an image", min(unused), len(unused))
        if all_named and differing:
            ways = f"pass --labels {shown(self.labels)}, or --labels {f'{BY_FOLDER}:1' if '/' in differing else BY_NAME}"
            raise UserError(
                f"{shown(self.labels)}: another label for {printable(differing)} than its folder or name says; {ways}"
            )

    def _by_order(self, files: Iterator[tuple[str, int]], lines: Iterator[Line]) -> Iterator[ImageFile]:
        """The same where the lines go by the images' order."""
        where = shown(self.labels or "")
        for count, (file, line) in enumerate(zip_longest(_in_any_order(files, where), lines)):
            if file is None or line is None:
                longer = count + 1 + sum(1 for _ in chain(lines, files))
                labels, images = (longer, count) if file is None else (count, longer)
                raise UserError(f"{where}: {labels} labels for {images} images; give one line an image")
            yield ImageFile(file[0], line.label, file[1])

    def _suffix(self, name: str, readings: Readings) -> int | None:
        found = WNID_SUFFIX.fullmatch(name) if self.use_labels else None
        if not found:
            return None
        try:
            return readings.index(found[1])
        except LabelError as error:
            raise predict_only(f"{shown(self.folder)}: {printable(name)}", error) from None

    def _own(self, name: str) -> int | None:
        """The class that a path itself names, by its first folder or by a WordNet id behind its name."""
        found = WNID_SUFFIX.fullmatch(name)
        word = name.partition("/")[0] if "/" in name else found[1] if found else ""
        return self.space.index(word) if self.space.how_sure(word) else None


def _in_any_order(files: Iterator[tuple[str, int]], labels: str) -> Iterator[tuple[str, int]]:
    """The files as they come; raises UserError naming two of them that others than we would order the other way round."""
    before = None
    for name, size in files:
        if before is not None and any(key(before) > key(name) for key in _ORDERS):
            which = f"images have no one order: {printable(before)} before {printable(name)}, or behind"
            raise UserError(f"{labels}: its lines have no names, and the {which}; give each line the image's name")
        before = name
        yield name, size


def _numbers(name: str) -> list[tuple[int, str]]:
    """In the order of the numbers in a name, as file managers show it."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


_ORDERS: tuple[Callable[[str], Any], ...] = (
    _numbers,
    str.casefold,
    lambda name: name.rpartition(".")[0],
    lambda name: re.sub(r"[\W_]", "", name).casefold(),
)
"""Keys by which names are ordered elsewhere: by number, regardless of case, without extension, by letters and digits alone."""

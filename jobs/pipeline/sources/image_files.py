"""Image files in folders, labelled by the names or the order of folders, by lines of a file, by their names, or not at all."""

import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import batched, chain, islice, pairwise
from typing import Any

from jobs.pipeline.labels import (
    BY_FOLDER,
    BY_NAME,
    BY_ORDER,
    NUMBERS,
    WNID_SUFFIX,
    LabelError,
    LabelSpace,
    Readings,
    predict_only,
)
from jobs.pipeline.sources.in_order import in_order
from jobs.pipeline.sources.labels_file import Labels, Line, read_labels
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, METADATA, LeftOut, entries, walk
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable, shard_id, view
from jobs.storage.address import below, parent, place, shown
from jobs.storage.failure import GONE_ROW, REFUSED_ROW, Failing, Gone, NoCredentials, Refused, patiently
from jobs.storage.files import open_storage, read_whole
from vit_actor.errors import UserError

MAX_FILE_BYTES = 256 * 2**20  # A larger file is no photograph, and one is enough to fill a worker's memory
READ_AHEAD = 8  # Files a thread reads in one go: handing them over one by one costs more than reading them from a page cache
LOOKED = "none found (looked for a class in names such as x_n01440764.jpg; --labels FILE names one)"
type File = tuple[str, int]  # Path below the data set's folder, size in bytes
type Image = tuple[str, int | None, int]  # The same with the label between


@dataclass(frozen=True)
class ImageFiles:
    """folder/<class>/image.jpg, maybe with folders above or below the classes, folder/image.jpg, or a single file.

    level: of the folders that name the classes, from 0, see label_level; None for none. Listing order with a level: folders by
        name, in each its own files by name and then its folders. Else: by path.
    order: the class folders by name, where their order is their label; None where their names are.
    labels: URI of a labels file, see read_labels; None for labels in names such as `..._n01440764.JPEG`.
    beside: whether the labels file was found and not given, so that names must not say otherwise.
    deep: whether images in folders below count too without a level; they go by paths, in the labels file as well.
    only: one file's name, None for all.
    """

    folder: str
    space: LabelSpace
    use_labels: bool
    limit: int | None
    images_per_shard: int
    level: int | None = None
    order: tuple[str, ...] | None = None
    labels: str | None = None
    beside: bool = False
    deep: bool = False
    only: str | None = None

    def shards(self) -> Generator[Shard, None, Survey]:
        left_out, readings, above = LeftOut(), Readings(self.space), list[str]()
        count, classes = 0, set[int]()

        def counted() -> Iterator[Image]:
            nonlocal count
            for image in self._labelled(readings, left_out, above):
                count += 1
                if image[1] is not None:
                    classes.add(image[1])
                yield image

        found = counted()
        for position, part in enumerate(batched(islice(found, self.limit), self.images_per_shard)):
            paths, labels, sizes = (list(column) for column in zip(*part, strict=True))
            payload = {"paths": paths, "labels": labels, "sizes": sizes}
            yield Shard(shard_id(paths[0].rpartition("/")[0] or "images", position), payload, len(part))
        if self.level is None:
            deque(found, maxlen=0)  # beyond the limit, where labels must fit as well
        told, held = "", None
        if self.level is not None:
            told = self._folders_told(readings, left_out, above) if self.use_labels else ""
            held = self.space.fewer(classes) if self.limit is None else None
        elif self.use_labels:
            told = readings.told(shown(self.labels) if self.labels else "file names") if classes else LOOKED
        return Survey(min(count, self.limit or count), bool(classes), told, left_out.told(), held)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        """A file that is gone, has another size, or is refused alone is an error. Raises Refused where no other can be read
        now, and Failing where files are gone because their folder is.
        """
        filesystem, base = open_storage(self.folder)
        images: list[Image] = list(zip(*(shard.payload[name] for name in ("paths", "labels", "sizes")), strict=True))

        def read(ordinals: Iterable[int]) -> list[tuple[int, EncodedImage | Refused]]:
            return [(ordinal, self._read(filesystem, base, *images[ordinal])) for ordinal in ordinals]

        readable, refused, gone, tried = None, None, list[str](), set[int]()
        for part in in_order(read, batched(filter(wanted, range(len(images))), READ_AHEAD)):
            for ordinal, image in part:
                tried.add(ordinal)
                if isinstance(image, Refused):
                    refused = image
                    path, label, _ = images[ordinal]
                    image = EncodedImage(printable(path), label, b"", f"{REFUSED_ROW} ({refused})")
                elif image.error == GONE_ROW:
                    gone.append(images[ordinal][0])
                else:
                    readable = ordinal
                yield ordinal, image
        listed = cache(self._names)
        if hidden := [path for path in gone if not self._is_gone(path, listed)]:
            raise Failing(f"{shown(below(self.folder, hidden[0]))}: its folder is gone, or hides it; is the disk still mounted?")
        if refused is not None:
            witness = next(iter({*range(len(images))} - tried), None) if readable is None else readable
            if witness is None or isinstance(read([witness])[0][1], Refused):
                raise refused

    def _read(self, filesystem: Any, base: str, path: str, label: int | None, listed: int) -> EncodedImage | Refused:
        failed = partial(EncodedImage, printable(path), label, b"")
        if not path.isascii() and printable(path) != path:
            return failed("cannot be read: its name is not valid UTF-8")
        try:
            data = patiently(partial(read_whole, filesystem, f"{base}/{path}", MAX_FILE_BYTES), below(self.folder, path), "read")
        except Gone:
            return failed(GONE_ROW if listed else "cannot be read: it is empty, or a link that leads nowhere")
        except NoCredentials:
            raise
        except Refused as refused:
            return refused
        if data is None:
            return failed(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        if data.size != listed:
            return failed(f"has {data.size:,} bytes, had {listed:,} when the run listed it")
        return EncodedImage(printable(path), label, view(data))

    def _is_gone(self, path: str, listed: Callable[[str], set[str] | None]) -> bool:
        """Whether the place that a file was in is there as before, and the file not in it: else storage hides it."""
        folder, _, name = path.rpartition("/")
        names = listed(folder)
        if names is None:
            return bool(folder) and self._is_gone(folder, listed)
        return name not in names and bool(names or folder)

    def _names(self, folder: str) -> set[str] | None:
        """What a folder of the data set holds now; None where it is gone."""
        try:
            return {entry.name for entry in entries(below(self.folder, folder) if folder else self.folder)}
        except Gone:
            return None

    def _labelled(self, readings: Readings, left_out: LeftOut, above: list[str]) -> Iterator[Image]:
        """The images in listing order. above: gets the data set's own folders that hold some."""
        if self.level is not None:
            folders = []
            for entry in sorted(entries(self.folder, left_out)):
                if entry.is_folder:
                    folders.append(entry.name)
                else:
                    left_out.add_file(entry.name)
            for found, others in in_order(self._list_folder, folders, survey=True):
                left_out.update(others)
                above += [found[0][0].partition("/")[0]] if found else []
                yield from self._by_folder(found, readings)
            return
        lines = read_labels(self.labels, readings) if self.labels else iter(())
        first = next(lines, None)
        files, every = sorted(self._files(left_out)), chain([first] if first else [], lines)
        if self.labels is None:
            yield from ((name, self._suffix(name, readings), size) for name, size in files)
        elif first and first.name is not None:
            yield from self._by_line(files, every, left_out)
        else:
            yield from self._by_order(files, every)

    def _list_folder(self, folder: str) -> tuple[list[File], LeftOut]:
        """The images under one of the data set's own folders, and what lies beside them."""
        left_out = LeftOut()
        found = list(walk(self.folder, folder, IMAGE_EXTENSIONS, left_out))
        if not found:
            left_out.add("folders without data", folder)
        return found, left_out

    def _by_folder(self, files: list[File], readings: Readings) -> list[Image]:
        images, before, label = list[Image](), None, None
        for path, size in files:
            if before != (before := path.rpartition("/")[0]) and self.use_labels:
                label = self._folder_label(before, readings)
            images.append((path, label, size))
        return images

    def _folder_label(self, folder: str, readings: Readings) -> int:
        level, names = self.level or 0, folder.split("/")
        if self.order is not None:
            return self.order.index(names[0])
        try:
            if level >= len(names):
                raise LabelError(f"images here, where the folders at level {level + 1} name the classes")
            return readings.index(names[level])
        except LabelError as error:
            raise predict_only(f"{shown(self.folder)}: folder {printable(folder)!r}", error) from None

    def _folders_told(self, readings: Readings, left_out: LeftOut, above: list[str]) -> str:
        """Where labels come from and how sure that is. Raises UserError where files in folders may have labels as well."""
        deeper = [example for kind, (_, example) in left_out.found.items() if kind.endswith(METADATA) and "/" in example]
        if self.space.reading == "" and deeper:
            way = f"give the folder that it is in, or pass --labels {BY_FOLDER}:{(self.level or 0) + 1} for the folders' names"
            raise UserError(f"{shown(self.folder)}: {deeper[0]} may have the labels, or the folders; {way}")
        if self.order is not None:
            return f"the order of {len(self.order)} folders' names, read as --labels {BY_ORDER} says"
        more = f" and {len(above) - 3:,} more" if len(above) > 3 else ""
        level = f" at level {self.level + 1}, below {', '.join(map(printable, above[:3]))}{more}," if self.level else ""
        told = readings.told(f"folder names{level}")
        if list(readings.examples) == [NUMBERS] and not self.space.reading and max(readings.known.values()) > 9:
            told += f"; a model trained on folders in the order of their names as text needs --labels {BY_ORDER}"
        return told

    def _files(self, left_out: LeftOut) -> Iterator[File]:
        if self.only is not None:
            yield from ((entry.name, entry.size) for entry in entries(self.folder) if entry.name == self.only)
            return
        if self.labels is not None:
            folder, name = parent(self.labels)
            left_out.but = name if place(folder) == place(self.folder) else None
        for path, size in walk(self.folder, "", IMAGE_EXTENSIONS, left_out):
            if "/" in path and not self.deep:
                inner = printable(path.partition("/")[0])
                raise UserError(f"{shown(self.folder)}: holds images and also folder {inner!r} with images; give one of them")
            yield path, size

    def _by_line(self, files: list[File], lines: Iterator[Line], left_out: LeftOut) -> Iterator[Image]:
        """By names in the labels file. left_out: is told lines that are of no file."""
        where = shown(self.labels or "")
        labels, differing, all_named = Labels(where, lines), None, self.beside
        for count, (name, size) in enumerate(files, 1):
            found = labels.of(name, folders=self.deep)
            if found is None:
                raise UserError(f"{where}: no label for image {printable(name)}")
            if len(labels.used) < count:
                way = "give each line the image's whole name"
                raise UserError(f"{where}: the line for {printable(name)} is that of another image too; {way}")
            if all_named:
                suffix = WNID_SUFFIX.fullmatch(name)
                word = name.partition("/")[0] if "/" in name else suffix[1] if suffix else ""
                all_named = self.space.how_sure(word) > 0
                if all_named and self.space.index(word) != found:
                    differing = differing or name
            yield name, found, size
        if unused := labels.unused():
            left_out.add("labels in its file without an image", min(unused), len(unused))
        if all_named and differing:
            ways = f"pass --labels {where}, or --labels {f'{BY_FOLDER}:1' if '/' in differing else BY_NAME}"
            raise UserError(f"{where}: another label for {printable(differing)} than its folder or name says; {ways}")

    def _by_order(self, files: list[File], lines: Iterator[Line]) -> Iterator[Image]:
        """By the images' order. Raises UserError naming two images that others than we would order the other way round."""
        where, labels = shown(self.labels or ""), [line.label for line in lines]
        for (before, _), (name, _) in pairwise(files):
            if any(key(before) > key(name) for key in _ORDERS):
                which = f"images have no one order: {printable(before)} before {printable(name)}, or behind"
                raise UserError(f"{where}: its lines have no names, and the {which}; give each line the image's name")
        if len(labels) != len(files):
            raise UserError(f"{where}: {len(labels)} labels for {len(files)} images; give one line an image")
        yield from ((name, label, size) for (name, size), label in zip(files, labels, strict=True))

    def _suffix(self, name: str, readings: Readings) -> int | None:
        found = WNID_SUFFIX.fullmatch(name) if self.use_labels else None
        try:
            return readings.index(found[1]) if found else None
        except LabelError as error:
            raise predict_only(f"{shown(self.folder)}: {printable(name)}", error) from None


_ORDERS: Sequence[Callable[[str], Any]] = (
    lambda name: [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)],
    str.casefold,
    lambda name: name.rpartition(".")[0],
    lambda name: re.sub(r"[\W_]", "", name).casefold(),
)
"""Keys by which names are ordered elsewhere: by number as file managers do, regardless of case, without extension, by letters and
digits alone."""

"""A tree of class folders: each image's label is the name of a folder it is in."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

from jobs.pipeline.labels import BY_FOLDER, BY_ORDER, NUMBERS, LabelError, LabelSpace, Readings, predict_only
from jobs.pipeline.sources.image_files import ImageFile, cut_shards, read_files
from jobs.pipeline.sources.in_order import in_order
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, METADATA, LeftOut, entries, split_of, walk
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable
from jobs.storage.address import shown
from vit_actor.errors import UserError

SAMPLED = 20  # Folders that are looked into to tell which level names the classes


@dataclass(frozen=True)
class ClassFolders:
    """folder/<class>/image.jpg, maybe with folders above or below: one level names the classes throughout, see label_level.

    Listing order: folders by name, in each its own files by name and then its folders.
    order: the class folders by name, where their order is their label; None where their names are.
    """

    folder: str
    space: LabelSpace
    use_labels: bool
    level: int
    limit: int | None
    images_per_shard: int
    order: tuple[str, ...] | None = None

    def shards(self) -> Generator[Shard, None, Survey]:
        count, left_out, classes, readings = 0, LeftOut(), set[int](), Readings(self.space)
        above: dict[str, None] = {}

        def images() -> Iterator[ImageFile]:
            nonlocal count
            for names, found, others in in_order(self._list_folder, self._folders(left_out), survey=True):
                for name in names:
                    self._checked(name, readings.index)
                above.update({image.path.partition("/")[0]: None for image in found[:1]})
                left_out.update(others)
                classes.update(image.label for image in found if image.label is not None)
                count += len(found)
                yield from found

        yield from cut_shards(islice(images(), self.limit), self.images_per_shard)
        deeper = [example for kind, (_, example) in left_out.found.items() if kind.endswith(METADATA) and "/" in example]
        if self.use_labels and self.space.reading == "" and deeper:
            way = f"give the folder that it is in, or pass --labels {BY_FOLDER}:{self.level + 1} for the folders' names"
            raise UserError(f"{shown(self.folder)}: {deeper[0]} may have the labels, or the folders; {way}")
        labels_from = self._told(readings, list(above)) if self.use_labels else ""
        held = self.space.fewer(classes) if self.limit is None else None
        return Survey(min(count, self.limit or count), self.use_labels, labels_from, left_out.told(), held)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        return read_files(self.folder, shard, wanted)

    def _folders(self, left_out: LeftOut) -> list[str]:
        found = list(entries(self.folder, left_out))
        for entry in found:
            if not entry.is_folder:
                left_out.add_file(entry.name)
        return sorted(entry.name for entry in found if entry.is_folder)

    def _list_folder(self, folder: str) -> tuple[list[str], list[ImageFile], LeftOut]:
        """Names that are labels, the images under one of the data set's folders, and what lies beside them."""
        images, left_out, names = list[ImageFile](), LeftOut(), dict[str, None]()
        above, label = None, None
        found = walk(self.folder, folder, IMAGE_EXTENSIONS, ordered=True, left_out=left_out)
        for path, size in found:
            if above != (above := path.rpartition("/")[0]) and self.use_labels:
                label = self._checked(above, self._label)
                if self.order is None:
                    names[above.split("/")[self.level]] = None
            images.append(ImageFile(path, label, size))
        if not images:
            left_out.add("folders without data", folder)
        return list(names), images, left_out

    def _label(self, folder: str) -> int:
        if self.order is not None:
            return self.order.index(folder.partition("/")[0])
        names = folder.split("/")
        if self.level >= len(names):
            raise LabelError(f"images here, where the folders at level {self.level + 1} name the classes")
        return self.space.index(names[self.level])

    def _checked(self, folder: str, label: Callable[[str], int]) -> int:
        try:
            return label(folder)
        except LabelError as error:
            raise predict_only(f"{shown(self.folder)}: folder {printable(folder)!r}", error) from None

    def _told(self, readings: Readings, above: list[str]) -> str:
        """above: the data set's own folders that hold images."""
        if self.order is not None:
            return f"the order of {len(self.order)} folders' names, read as --labels {BY_ORDER} says"
        more = f" and {len(above) - 3:,} more" if len(above) > 3 else ""
        level = f" at level {self.level + 1}, below {', '.join(map(printable, above[:3]))}{more}," if self.level else ""
        told = readings.told(f"folder names{level}")
        if list(readings.examples) == [NUMBERS] and not self.space.reading and max(readings.known.values()) > 9:
            told += f"; a model trained on folders in the order of their names as text needs --labels {BY_ORDER}"
        return told


def label_level(folder: str, space: LabelSpace, use_labels: bool, asked: str | None = None) -> int:
    """At which level below a data set's folder its folders name the classes, from 0: by the first folders of a few of them.

    That at which all of these name a class, by name or WordNet id rather than by a number; the last one where there is none.
    asked: the level that the user gives, from 1.
    Raises UserError where the folders are splits, and where several levels are equally sure and differ.
    """
    names = sorted(entry.name for entry in entries(folder) if entry.is_folder)
    if asked is not None:
        if not asked.isdecimal() or asked == "0":
            raise UserError(f"--labels {BY_FOLDER}:{asked}: give the level of the folders, 1 for those in --data")
        return int(asked) - 1
    splits = [name for name in names if split_of(name)]
    known = all(space.how_sure(name) == 2 for name in names)
    if len(splits) > 1 and not (known and len(splits) < len(names)):
        way = f"give one of them, or pass --labels {BY_FOLDER}:1 if they are classes"
        raise UserError(f"{shown(folder)}: its folders are splits ({', '.join(splits)}); {way}")
    if not use_labels:
        return 0
    paths, each = list[list[str]](), max(1, SAMPLED // max(1, len(names)))
    for name in names[:: max(1, len(names) // SAMPLED)]:
        found = walk(folder, name, IMAGE_EXTENSIONS, ordered=True)
        folders = (place for place, _ in groupby(path.rpartition("/")[0] for path, _ in found))
        paths += [place.split("/") for place in islice(folders, each)]
    levels = range(min(map(len, paths), default=1))
    sure = {level: min((space.how_sure(path[level]) for path in paths), default=0) for level in levels}
    best = [level for level in levels if sure[level] == max(sure.values())]
    if sure[best[0]] and len({tuple(space.index(path[level]) for path in paths) for level in best}) > 1:
        ways = " or ".join(f"--labels {BY_FOLDER}:{level + 1} ({printable(paths[-1][level])!r})" for level in best)
        raise UserError(f"{shown(folder)}: folders at several levels may be the classes; pass {ways}")
    return best[-1]


def folder_order(folder: str, space: LabelSpace) -> tuple[str, ...]:
    """The data set's folders by name, which are the classes in that order, as torchvision's ImageFolder has it.

    Raises UserError where there are not as many as the checkpoint has classes.
    """
    names = tuple(sorted(entry.name for entry in entries(folder) if entry.is_folder))
    if len(names) != len(space.class_names):
        classes = f"{len(names):,} folders for the checkpoint's {len(space.class_names):,} classes"
        raise UserError(f"{shown(folder)}: {classes}; --labels {BY_ORDER} needs a folder a class")
    return names

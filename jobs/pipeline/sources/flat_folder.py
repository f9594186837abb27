"""A folder of image files, or one of them: labels in a file, in the names, or none. With a file, also of a tree of folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from jobs.pipeline.labels import WNID_SUFFIX, LabelSpace
from jobs.pipeline.sources.fingerprint import SetHash, fingerprint
from jobs.pipeline.sources.image_files import cut_shards, read_files
from jobs.pipeline.sources.labels_file import check_digest, label_of, read_labels
from jobs.pipeline.sources.listing import (
    IMAGE_EXTENSIONS,
    entries,
    extension,
    has_extension,
    open_place,
    place_errors,
    split_uri,
    walk,
)
from jobs.pipeline.sources.source import EncodedImage, Shard, Survey, printable
from jobs.storage import absolute, shown
from vit_actor.errors import UserError


@dataclass(frozen=True)
class FlatFolder:
    """folder/ILSVRC2012_val_00000001.JPEG and so on, in the order of their names.

    labels: URI of a labels file, see read_labels; None for those in names such as `..._n01440764.JPEG`.
    labels_digest: of that file, as it was where the job was started.
    only: one file's name, None for all.
    deep: whether images in folders below count too; names are then paths, in the labels file as well.
    """

    folder: str
    space: LabelSpace
    use_labels: bool
    labels: str | None
    labels_digest: str | None
    limit: int | None
    images_per_shard: int
    only: str | None
    deep: bool = False

    def survey(self) -> Survey:
        contents, names, labelled, left_out = SetHash(), SetHash(), self.labels is not None, Counter[str]()
        for name, size in self._files(left_out):
            contents.add(name, size)
            names.add(name)
            labelled |= self._suffix(name) is not None
        source = self._survey_labels(names) if self.labels is not None else self.use_labels
        settings = {"labels": source, "limit": self.limit, "images_per_shard": self.images_per_shard, "only": self.only}
        images = contents.count if self.limit is None else min(contents.count, self.limit)
        looked = "none found (looked for a class in names such as x_n01440764.jpg; --labels FILE names one)"
        labels_from = (self.labels and shown(self.labels)) or ("file names" if labelled else looked)
        told = labels_from if self.use_labels else ""
        return Survey(images, labelled, fingerprint("flat folder", contents, **settings), told, dict(+left_out))

    def roots(self) -> list[str]:
        return [""]

    def shards(self, root: str) -> Iterator[Shard]:
        names = sorted(name for name, _ in self._files())
        return cut_shards(islice(self._labelled(names), self.limit), self.only or "images", self.images_per_shard)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        return read_files(self.folder, shard, wanted)

    def _files(self, left_out: Counter[str] | None = None) -> Iterator[tuple[str, int]]:
        filesystem, base = open_place(self.folder)
        with place_errors(self.folder):
            if self.deep:
                yield from walk(filesystem, base, "", IMAGE_EXTENSIONS, ordered=False, left_out=left_out)
                if left_out is not None and (labels := self._labels_beside()):
                    left_out[extension(labels)] -= 1
                return
            for entry in entries(filesystem, base, left_out):
                if entry.is_folder:
                    if self.only is None and any(walk(filesystem, base, entry.name, IMAGE_EXTENSIONS, ordered=False)):
                        where = f"{shown(self.folder)}: holds images and also folder {printable(entry.name)!r} with images"
                        raise UserError(f"{where}; give one of them")
                elif entry.name == self.only or (self.only is None and has_extension(entry.name, IMAGE_EXTENSIONS)):
                    yield entry.name, entry.size
                elif self.only is None and left_out is not None and entry.name != self._labels_beside():
                    left_out[extension(entry.name)] += 1

    def _labels_beside(self) -> str | None:
        """The name of the labels file, if it is in the folder."""
        folder, name = split_uri(self.labels or "")
        return name if folder == absolute(self.folder).rstrip("/") else None

    def _labelled(self, names: list[str]) -> Iterator[tuple[str, int | None]]:
        if self.labels is None:
            return ((name, self._suffix(name)) for name in names)
        check_digest(self.labels, self.labels_digest)
        lines = list(read_labels(self.labels, self.space, folders=self.deep))
        if lines and lines[0].name is None:
            return ((name, line.label) for name, line in zip(names, lines, strict=True))
        by_name = {line.name: line.label for line in lines}
        return ((name, label_of(name, by_name)) for name in names)

    def _suffix(self, name: str) -> int | None:
        found = WNID_SUFFIX.fullmatch(name) if self.use_labels else None
        if not found:
            return None
        try:
            return self.space.index(found[1])
        except UserError as error:
            raise UserError(f"{shown(self.folder)}: {printable(name)}: {error}; or pass --labels none to predict only") from None

    def _survey_labels(self, images: SetHash) -> str:
        """Check that the labels file has a label for every image, without holding its lines; its own fingerprint.

        images: hash of the images' names.
        """
        assert self.labels is not None
        lines, names, by_order = SetHash(), SetHash(), False
        for position, line in enumerate(read_labels(self.labels, self.space, folders=self.deep)):
            by_order = line.name is None
            lines.add(position if by_order else line.name, line.label)
            names.add(line.name)
        if by_order and lines.count != images.count:
            raise UserError(f"{shown(self.labels)}: {lines.count} labels for {images.count} images; give one line an image")
        if not by_order and names != images:  # rare: labels of more images than these, or of other ones
            self._find_missing()
        return fingerprint("labels file", lines)

    def _find_missing(self) -> None:
        assert self.labels is not None
        labels: dict[str | None, int] = {}
        for name, label in read_labels(self.labels, self.space, folders=self.deep):
            if labels.setdefault(name, label) != label:
                raise UserError(f"{shown(self.labels)}: two different labels for {name}")
        missing = min((name for name, _ in self._files() if label_of(name, labels) is None), default=None)
        if missing is not None:
            raise UserError(f"{shown(self.labels)}: no label for image {printable(missing)}")

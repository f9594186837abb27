"""Data sets on the Hugging Face hub: which files a hf:// URI means, and what went wrong in one line."""

import fnmatch
import os
import re
from contextlib import suppress
from typing import Any

from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, KINDS, has_extension
from jobs.storage.address import shown
from jobs.storage.failure import storage_errors
from vit_actor.errors import UserError

_URI = re.compile(
    r"hf://datasets/(?P<repo>[^/@?]+/[^/@?]+)(?P<revision>@(?:refs/(?:convert|pr)/)?[^/?]+)?(?:/(?P<path>[^?]*))?"
    r"(?:\?(?P<query>(?:split|config)=[\w.-]+(?:&(?:split|config)=[\w.-]+)?))?"
)


def is_hub(uri: str) -> bool:
    return uri.startswith("hf://")


def locate(uri: str) -> str:
    """hf://datasets/<owner>/<name>[@revision][/path][?config=<name>&split=validation] -> URI of its files, maybe with a pattern.

    A path is taken as it is. Without one, the split's Parquet files are sought where the hub's data sets have them:
    data/<split>-*.parquet first, then a folder of the split's name, then beside the README. Other data sets (a named
    configuration, image folders, WebDataset) are resolved as `datasets` does; no code of theirs is run. The token is HF_TOKEN.
    Raises UserError for another form of URI, a data set that cannot be listed, and a split that is not found.
    """
    found = _URI.fullmatch(uri)
    if not found:
        raise UserError(
            f"{shown(uri)}: expected hf://datasets/<owner>/<name>[@revision][/path] or ...?config=<name>&split=<name>"
        )
    repo = f"datasets/{found['repo']}{found['revision'] or ''}"
    query = dict(part.split("=") for part in (found["query"] or "").split("&") if part)
    split, config = query.get("split", "validation"), query.get("config")
    with storage_errors(uri):
        from huggingface_hub import HfFileSystem

        hub: Any = HfFileSystem()  # not through pyarrow, which reports every refusal as a missing file
        top = hub.ls(repo, detail=True)
        if found["path"]:
            return f"hf://{repo}/{found['path']}"
        if config is not None:
            return _resolve_as_datasets(hub, repo, top, config, split, uri)
        folders = [info["name"] for info in top if info["type"] == "directory" and _last(info) in ("data", split)]
        for folder in (*sorted(folders, key=lambda name: not name.endswith("/data")), repo):
            names = [_last(info) for info in (top if folder == repo else hub.ls(folder, detail=True))]
            for pattern in (f"{split}-*.parquet", f"{split}.parquet", *(["*.parquet"] if folder.endswith(f"/{split}") else [])):
                if fnmatch.filter(names, pattern):
                    return f"hf://{folder}/{pattern}"
        return _resolve_as_datasets(hub, repo, top, config, split, uri)


def _resolve_as_datasets(hub: Any, repo: str, top: list[dict[str, Any]], config: str | None, split: str, uri: str) -> str:
    """The URI of a split's files by the README's `configs`, else by the files' and folders' names, below one of `config`."""
    from datasets.data_files import EmptyDatasetError, get_data_patterns, resolve_pattern

    base = f"hf://{repo}"
    readme = next((info["name"] for info in top if _last(info) == "README.md"), None)
    patterns = _declared(hub.read_text(readme) if readme else "", config or "default")
    if not patterns:
        base = f"{base}/{config}" if config else base
        with suppress(EmptyDatasetError, FileNotFoundError):
            patterns = {str(name): paths for name, paths in get_data_patterns(base).items()}
    files: set[str] = set()
    for pattern in patterns.get(split, ()):
        with suppress(FileNotFoundError):  # one of several ways to name a split
            files.update(resolve_pattern(pattern, base))
    if common := _common(hub, sorted(files)):
        return common
    there = f"it has {', '.join(sorted(patterns))}" if patterns else "nothing there is named as one"
    raise UserError(f"{shown(uri)}: no files of split {split!r} ({there}); choose with ?config=, ?split= or a path")


def _declared(readme: str, config: str) -> dict[str, list[str]]:
    """Paths by split of a configuration in a README's metadata; empty without any."""
    from datasets.data_files import sanitize_patterns
    from huggingface_hub import DatasetCard

    if readme.startswith("---"):
        for each in getattr(DatasetCard(readme, ignore_metadata_errors=True).data, "configs", None) or []:
            if isinstance(each, dict) and each.get("config_name", "default") == config and each.get("data_files"):
                with suppress(ValueError, TypeError):  # of another form
                    return {name: list(map(str, paths)) for name, paths in sanitize_patterns(each["data_files"]).items()}
    return {}


def _common(hub: Any, files: list[str]) -> str | None:
    """One URI for a split's files of a kind that can be read; None without any.

    Raises UserError where no folder and no pattern names these files and no others.
    """
    for extensions in KINDS.values():
        some = [file for file in files if has_extension(file, extensions)]
        if len(some) < 2:
            if some:
                return some[0]
            continue
        ending = next(extension for extension in extensions if has_extension(some[0], (extension,)))
        folders = {file.rpartition("/")[0] for file in some}
        stems = [file.rpartition("/")[2].removesuffix(ending) for file in some]
        patterned = all(file.endswith(ending) for file in some) and not re.search(r"[{},*?]", "".join(stems))
        if len(folders) == 1 and extensions is not IMAGE_EXTENSIONS and patterned:
            return f"{folders.pop()}/{{{','.join(stems)}}}{ending}"
        folder = os.path.commonpath([folder.removeprefix("hf://") for folder in folders])
        if sum(has_extension(file, extensions) for file in hub.find(folder)) > len(some):
            raise UserError(f"hf://{folder}: holds files of other splits too, in the same folders; give the files with a path")
        return f"hf://{folder}"
    return None


def _last(info: dict[str, Any]) -> str:
    return str(info["name"]).rpartition("/")[2]

"""Data sets on the Hugging Face hub: which files a hf:// URI means, and what went wrong in one line."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.storage import first_line, shown
from vit_actor.errors import UserError

TOKENS = "https://huggingface.co/settings/tokens"
_URI = re.compile(
    r"hf://datasets/(?P<repo>[^/@?]+/[^/@?]+)(?P<revision>@[^/?]+)?(?:/(?P<path>[^?]*))?(?:\?split=(?P<split>[\w.-]+))?"
)


def is_hub(uri: str) -> bool:
    return uri.startswith("hf://")


def locate(uri: str) -> str:
    """hf://datasets/<owner>/<name>[@revision][/path][?split=validation] -> URI of its files, maybe with a pattern.

    A path is taken as it is. Without one, the split's Parquet files are sought where the hub's data sets have them:
    data/<split>-*.parquet first, then a folder of the split's name, then beside the README. The token is HF_TOKEN.
    Raises UserError for another form of URI, a data set that cannot be listed, and a split that is not found.
    """
    found = _URI.fullmatch(uri)
    if not found:
        raise UserError(f"{shown(uri)}: expected hf://datasets/<owner>/<name>[@revision][/path] or ...?split=<name>")
    repo = f"datasets/{found['repo']}{found['revision'] or ''}"
    split = found["split"] or "validation"
    with hub_errors(uri):
        from huggingface_hub import HfFileSystem

        hub = HfFileSystem()  # not through pyarrow, which reports every refusal as a missing file
        top = _list(hub, repo)
        if found["path"]:
            return f"hf://{repo}/{found['path']}"
        folders = [info["name"] for info in top if info["type"] == "directory" and _last(info) in ("data", split)]
        for folder in (*sorted(folders, key=lambda name: not name.endswith("/data")), repo):
            names = [_last(info) for info in (top if folder == repo else _list(hub, folder))]
            for pattern in (f"{split}-*.parquet", f"{split}.parquet", *(["*.parquet"] if folder.endswith(f"/{split}") else [])):
                if fnmatch.filter(names, pattern):
                    return f"hf://{folder}/{pattern}"
    raise UserError(f"{shown(uri)}: no Parquet files of split {split!r}; name the split with ?split= or the files with a path")


def _list(hub: Any, folder: str) -> list[dict[str, Any]]:
    return list(hub.ls(folder, detail=True))


def _last(info: dict[str, Any]) -> str:
    return str(info["name"]).rpartition("/")[2]


@contextmanager
def hub_errors(uri: str) -> Iterator[None]:
    """Turn what the hub's client raises inside the block into a UserError with the fix in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client's errors share no base class; this is where they end
        raise UserError(f"{shown(uri)}: {_explain(error, uri)}") from None


def _explain(error: Exception, uri: str) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cause = error.__cause__ or error if isinstance(error, FileNotFoundError) else error
    page = "https://huggingface.co/" + "/".join(uri.removeprefix("hf://").split("?")[0].split("@")[0].split("/")[:3])
    status = getattr(getattr(cause, "response", None), "status_code", None)
    token = bool(os.environ.get("HF_TOKEN"))
    if isinstance(cause, GatedRepoError):
        if token:
            return f"HF_TOKEN has no access; accept the terms at {page} with its account, or create another at {TOKENS}"
        return f"gated; accept its terms at {page}, create a token at {TOKENS} and set HF_TOKEN"
    if isinstance(cause, RevisionNotFoundError):
        return f"no such revision; see {page}"
    if isinstance(cause, RepositoryNotFoundError):
        hint = "whether HF_TOKEN may see it" if token else f"if it is private, create a token at {TOKENS} and set HF_TOKEN"
        return f"no such data set; check the name, or {hint}"
    if isinstance(cause, HfHubHTTPError) and status in (401, 403):
        return (
            f"HF_TOKEN was refused; create a valid one at {TOKENS}" if token else f"create a token at {TOKENS} and set HF_TOKEN"
        )
    if isinstance(cause, FileNotFoundError):
        return f"no such file or folder; see {page}"
    if isinstance(cause, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it, or give a local copy of the data set"
    reason = first_line(cause)
    return (
        f"huggingface.co cannot be reached or did not answer ({reason}); check the network, or give a local copy of the data set"
    )

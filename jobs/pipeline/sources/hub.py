"""Data sets on the Hugging Face hub: which files a hf:// URI means, and what went wrong in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from pyarrow.fs import FileSelector, FileSystem, FileType

from vit_actor.errors import UserError

TOKENS = "https://huggingface.co/settings/tokens"
_URI = re.compile(
    r"hf://datasets/(?P<repo>[^/@?]+/[^/@?]+)(?P<revision>@[^/?]+)?(?:/(?P<path>[^?]*))?(?:\?split=(?P<split>[\w.-]+))?"
)


def is_hub(uri: str) -> bool:
    return uri.startswith("hf://")


def locate_split(uri: str, filesystem: FileSystem) -> str:
    """hf://datasets/<owner>/<name>[@revision][/path][?split=validation] -> URI of its Parquet files, maybe with a pattern.

    A path is taken as it is. Without one, the split's files are sought where the hub's data sets have them:
    data/<split>-*.parquet first, then beside the README, then in a folder of the split's name.
    Raises UserError for another form of URI, and if the split is not found.
    """
    found = _URI.fullmatch(uri)
    if not found:
        raise UserError(f"{uri}: expected hf://datasets/<owner>/<name>[@revision][/path] or ...?split=<name>")
    repo = f"datasets/{found['repo']}{found['revision'] or ''}"
    if found["path"]:
        return f"hf://{repo}/{found['path']}"
    split = found["split"] or "validation"
    with hub_errors(uri):
        top = [info for info in filesystem.get_file_info(FileSelector(repo)) if not info.base_name.startswith(".")]
        folders = {info.base_name for info in top if info.type == FileType.Directory}
        for folder in ("data", "", split):
            if folder and folder not in folders:
                continue
            listed = filesystem.get_file_info(FileSelector(f"{repo}/{folder}")) if folder else top
            names = [info.base_name for info in listed if info.base_name.endswith(".parquet")]
            for pattern in (f"{split}-*.parquet", f"{split}.parquet", *(["*.parquet"] if folder == split else [])):
                if any(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) for name in names):
                    return f"hf://{repo}/{folder}/{pattern}" if folder else f"hf://{repo}/{pattern}"
    raise UserError(f"{uri}: no Parquet files of split {split!r}; name the split with ?split= or the files with a path")


@contextmanager
def hub_errors(uri: str) -> Iterator[None]:
    """Turn what the hub's client raises inside the block into a UserError with the fix in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client's errors share no base class; this is where they end
        raise UserError(f"{uri}: {_explain(error, uri)}") from None


def _explain(error: Exception, uri: str) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
    page = "https://huggingface.co/" + "/".join(uri.removeprefix("hf://").split("?")[0].split("@")[0].split("/")[:3])
    status = getattr(getattr(cause, "response", None), "status_code", None)
    token = bool(os.environ.get("HF_TOKEN"))
    refused = status == 401 and token and "token" in str(cause).lower()
    if isinstance(cause, GatedRepoError) and not token:
        return f"gated; accept its terms at {page}, create a token at {TOKENS} and set HF_TOKEN"
    if isinstance(cause, GatedRepoError) and not refused:
        return f"HF_TOKEN has no access; accept the terms at {page} with the account it belongs to"
    if refused and not isinstance(cause, RepositoryNotFoundError | RevisionNotFoundError):
        return f"HF_TOKEN was refused; create a valid one at {TOKENS}"
    if isinstance(cause, RevisionNotFoundError):
        return f"no such revision; see {page}"
    if isinstance(cause, RepositoryNotFoundError):
        hint = "HF_TOKEN may not see it" if token else f"if it is private, create a token at {TOKENS} and set HF_TOKEN"
        return f"no such data set; check the name, or {hint}"
    if isinstance(cause, FileNotFoundError):
        return f"no such file or folder; see {page}"
    if isinstance(cause, HfHubHTTPError) and status in (401, 403):
        return f"access denied; set HF_TOKEN to a token with access, from {TOKENS}"
    if isinstance(cause, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it, or give a local copy of the data set"
    reason = (str(cause).strip().splitlines() or [""])[0] or type(cause).__name__
    return (
        f"huggingface.co cannot be reached or did not answer ({reason}); check the network, or give a local copy of the data set"
    )

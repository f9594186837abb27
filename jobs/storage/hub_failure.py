"""What the Hugging Face hub's client raises, in one line with the fix."""

import os

from jobs.storage.failure import Failing, Gone, Refused, StorageError, first_line

TOKENS = "https://huggingface.co/settings/tokens"


def hub_explained(error: Exception, uri: str) -> tuple[type[StorageError], str]:
    """What an error of the hub's client means, and it in one line with the fix."""
    from huggingface_hub.errors import (  # only where the hub was used
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
            return Refused, f"HF_TOKEN has no access; accept the terms at {page} with its account, or create another at {TOKENS}"
        return Refused, f"gated; accept its terms at {page}, create a token at {TOKENS} and set HF_TOKEN"
    if isinstance(cause, RevisionNotFoundError):
        return Gone, f"no such revision; see {page}"
    if isinstance(cause, RepositoryNotFoundError):
        hint = "whether HF_TOKEN may see it" if token else f"if it is private, create a token at {TOKENS} and set HF_TOKEN"
        return Gone, f"no such data set; check the name, or {hint}"
    if isinstance(cause, HfHubHTTPError) and status in (401, 403):
        hint = f"HF_TOKEN was refused; create a valid one at {TOKENS}"
        return Refused, hint if token else f"create a token at {TOKENS} and set HF_TOKEN"
    if isinstance(cause, FileNotFoundError):
        return Gone, f"no such file or folder; see {page}"
    if isinstance(cause, OfflineModeIsEnabled):
        return Refused, "HF_HUB_OFFLINE is set; unset it, or give a local copy of the data set"
    reason = first_line(cause)
    return Failing, (
        f"huggingface.co cannot be reached or did not answer ({reason}); check the network, or give a local copy of the data set"
    )

"""transformers' own model in eager torch, float32: the reference that every other way to run a checkpoint is judged by."""

import os
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from zipfile import ZipFile
from zlib import crc32

import numpy as np

from vit_actor.checkpoint import Checkpoint
from vit_actor.opening import cache_directory


def reference_vit(checkpoint: Checkpoint, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """What makes float32 logits (n, classes) of images uint8 (n, height, width, 3). threads: torch's, for the whole process."""
    import torch  # these take seconds, which most devices do without
    from transformers import ViTForImageClassification
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what transformers would say while loading, a user cannot act on
    vit = ViTForImageClassification.from_pretrained(checkpoint.path, dtype=torch.float32, use_safetensors=True).eval()
    scale, shift = torch.tensor([checkpoint.preprocess.scale, checkpoint.preprocess.shift])[..., None, None]

    @torch.inference_mode()
    def logits(images: np.ndarray) -> np.ndarray:
        found: np.ndarray = vit(pixel_values=torch.tensor(images).permute(0, 3, 1, 2) * scale + shift).logits.numpy()
        return found

    return logits


def kept_reference(checkpoint: Checkpoint, images: np.ndarray) -> np.ndarray:
    """As `Device.reference` says: computed once for each checkpoint on a host, on all cores, and kept in the cache directory."""
    file = cache_directory() / "loudbox-vit" / f"{checkpoint.digest}-{crc32(images.tobytes()):08x}.npz"
    with suppress(Exception):  # it is not there, or damaged in whatever way: the archive has a checksum
        with ZipFile(file) as archive:
            kept: np.ndarray = np.load(BytesIO(archive.read("scores.npy")))
        return kept
    scores = reference_vit(checkpoint, len(os.sched_getaffinity(0)))(images)
    with suppress(OSError):  # then the next start computes them again
        file.parent.mkdir(parents=True, exist_ok=True)
        written = file.with_suffix(f".{os.getpid()}.npz")
        np.savez(written, scores=scores)
        written.replace(file)
    return scores

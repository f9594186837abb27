"""transformers' own model in eager torch, float32: the reference that every other way to run a checkpoint is judged by."""

import numpy as np
import torch
from transformers import ViTForImageClassification
from transformers.utils import logging

from vit_actor.checkpoint import Checkpoint


class ReferenceVit:
    """Called with uint8 (n, height, width, 3), it gives float32 logits (n, classes)."""

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        """threads: torch's, for the whole process."""
        torch.set_num_threads(threads)
        logging.disable_progress_bar()
        logging.set_verbosity_error()  # what transformers would say while loading, a user cannot act on
        self._vit = ViTForImageClassification.from_pretrained(checkpoint.path, dtype=torch.float32, use_safetensors=True).eval()
        self._scale = torch.tensor(checkpoint.preprocess.scale)[:, None, None]
        self._shift = torch.tensor(checkpoint.preprocess.shift)[:, None, None]

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        channels = torch.tensor(images).permute(0, 3, 1, 2).float()
        logits: np.ndarray = self._vit(pixel_values=channels * self._scale + self._shift).logits.numpy()
        return logits

"""Host buffers that uploads read from: images are cut into patches as they are copied in, and never copied again."""

from __future__ import annotations

import numpy as np
import torch
import ttnn

from vit_actor.errors import DeviceError
from vit_actor.geometry import Geometry
from vit_actor.weights import CENTRE


class Staging:
    """One batch of patches for a whole mesh: uint8 (images, padded tokens, pixels), shared with the ttnn tensor `host`.

    Row 0 of an image stands for the class token. It and all padding hold CENTRE, which the device turns into zero.
    Because the memory is shared, nothing may be put in while an upload may still read it.
    """

    def __init__(self, size: Geometry, mesh: ttnn.MeshDevice) -> None:
        images = size.images * mesh.get_num_devices()
        rows = torch.full((images, size.padded_tokens, size.pixels), CENTRE, dtype=torch.uint8)
        self.host = ttnn.from_torch(
            rows, dtype=ttnn.uint8, layout=ttnn.ROW_MAJOR_LAYOUT, mesh_mapper=ttnn.ShardTensorToMesh(mesh, dim=0)
        )
        if ttnn.get_device_tensors(self.host)[0].to_torch().data_ptr() != rows.data_ptr():
            raise DeviceError(
                "this version of ttnn copies host tensors instead of sharing them; install the one in requirements.txt"
            )
        # A line of pixels within a patch as one element: numpy then copies 48 bytes at a time (1.9 ms a batch, not 2.8).
        self._side, self._patch = size.patches, size.patch_size
        self._line = np.dtype(("V", 3 * size.patch_size))
        patches = rows.numpy()[:, 1 : size.tokens, : 3 * size.patch_size**2]
        lines = patches.reshape(images, self._side, self._side, self._patch, 3 * self._patch)
        assert np.shares_memory(lines, rows.numpy())
        self._lines = lines.view(self._line)[..., 0]

    def put(self, images: np.ndarray) -> None:
        """Copy images uint8 (n, height, width, 3) to the front of the batch; what lies behind them stays as it was."""
        images = np.ascontiguousarray(images)
        lines = images.reshape(len(images), self._side, self._patch, self._side, 3 * self._patch).view(self._line)[..., 0]
        np.copyto(self._lines[: len(images)], lines.transpose(0, 1, 3, 2))

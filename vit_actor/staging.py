"""Host buffers that uploads read from: images are cut into patches as they are copied in, and never copied again."""

import numpy as np
import torch
import ttnn

from vit_actor.errors import DeviceError
from vit_actor.geometry import Geometry
from vit_actor.weights import CENTRE


class Staging:
    """One batch of patches for a whole mesh: `rows` uint8 (images, padded tokens, pixels), and as the ttnn tensor `host`.

    Row 0 of an image stands for the class token. It and all padding hold CENTRE, which the device turns into zero.
    Both are one memory, so nothing may be put in while an upload may still read it.
    """

    def __init__(self, size: Geometry, mesh: ttnn.MeshDevice) -> None:
        images, side, patch = size.images * mesh.get_num_devices(), size.patches, size.patch_size
        shared = torch.full((images, size.padded_tokens, size.pixels), CENTRE, dtype=torch.uint8)
        self.rows = shared.numpy()
        self.host = ttnn.from_torch(
            shared, dtype=ttnn.uint8, layout=ttnn.ROW_MAJOR_LAYOUT, mesh_mapper=ttnn.ShardTensorToMesh(mesh, dim=0)
        )
        self.rows[-1, -1, -1] = CENTRE + 1
        last = ttnn.get_device_tensors(self.host)[-1].to_torch()
        self.rows[-1, -1, -1] = CENTRE
        if last[-1, -1, -1] != CENTRE + 1:
            raise DeviceError("this ttnn copies host tensors instead of sharing them; install the version in requirements.txt")
        # A line of pixels within a patch as one element: numpy then copies 48 bytes at a time, in a third less time.
        lines = self.rows[:, 1 : size.tokens, : 3 * patch**2].view(("V", 3 * patch))
        self._lines = lines.reshape(images, side, side, patch)
        assert np.shares_memory(self._lines, self.rows)

    def put(self, images: np.ndarray) -> None:
        """Copy images uint8 (n, height, width, 3) to the front of the batch; what lies behind them stays as it was."""
        count, (_, side, _, patch) = len(images), self._lines.shape
        lines = np.ascontiguousarray(images).reshape(count, side, patch, -1).view(self._lines.dtype)
        np.copyto(self._lines[:count], lines.transpose(0, 1, 3, 2))

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
        images = size.images * mesh.get_num_devices()
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
        self._side, self._patch = size.patches, size.patch_size
        self._line = np.dtype(("V", 3 * size.patch_size))
        patches = self.rows[:, 1 : size.tokens, : 3 * size.patch_size**2]
        lines = patches.reshape(images, self._side, self._side, self._patch, 3 * self._patch)
        assert np.shares_memory(lines, self.rows)
        self._lines = lines.view(self._line)[..., 0]

    def put(self, images: np.ndarray) -> None:
        """Copy images uint8 (n, height, width, 3) to the front of the batch; what lies behind them stays as it was."""
        images = np.ascontiguousarray(images)
        lines = images.reshape(len(images), self._side, self._patch, self._side, 3 * self._patch).view(self._line)[..., 0]
        np.copyto(self._lines[: len(images)], lines.transpose(0, 1, 3, 2))

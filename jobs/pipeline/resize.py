"""Antialiased resize of uint8 images: the two kernels of PyTorch that reproduce Pillow's filters, bicubic within two levels.

The kernels are called in PyTorch's library through its C interface (torch/csrc/stable/c/shim.h), which loads in a third of a
second; `import torch` takes two, more than all else that a decode worker starts with. A kernel runs on the calling thread alone,
whatever torch's thread count.
"""

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

KERNELS = {Image.Resampling.BILINEAR: b"aten::_upsample_bilinear2d_aa", Image.Resampling.BICUBIC: b"aten::_upsample_bicubic2d_aa"}
"""By Pillow's filter; each is called in its overload `out`, which writes where it is told to."""


def resize(pixels: np.ndarray, resample: int, out: np.ndarray) -> None:
    """Resize uint8 (h, w, 3) straight into `out`, uint8 (height, width, 3); resample is one of KERNELS."""
    (height, width), (new_height, new_width) = pixels.shape[:2], out.shape[:2]
    # The two passes round in between, so their order shows. Pillow 13 takes the vertical one first where that shrinks the
    # image by far more than the horizontal one would; torch always starts with the horizontal one.
    if height > new_height and height - new_height > 2 * (width - new_width):
        shortened = np.empty((new_height, width, 3), np.uint8)
        _horizontally_first(pixels, resample, shortened)
        pixels = shortened
    _horizontally_first(pixels, resample, out)


def _horizontally_first(pixels: np.ndarray, resample: int, out: np.ndarray) -> None:
    """op(self, output_size, align_corners=False, scales_h=None, scales_w=None, out) -> out."""
    size = ctypes.c_void_p()
    _check(library().torch_new_list_reserve_size(2, ctypes.byref(size)))
    for length in out.shape[:2]:
        _check(library().torch_list_push_back(size, length))
    # The call takes the list and both tensors over, and leaves a tensor in their place.
    stack = (ctypes.c_uint64 * 6)(_tensor(pixels), size.value or 0, 0, 0, 0, _tensor(out))
    _check(library().aoti_torch_call_dispatcher(KERNELS[Image.Resampling(resample)], b"out", stack))
    _check(library().aoti_torch_delete_tensor_object(stack[0]))


def _tensor(image: np.ndarray) -> int:
    """A handle of a tensor (1, 3, height, width) in the memory of `image`, uint8 (height, width, 3)."""
    height, width, channels = image.shape
    down, across, deep = image.strides
    sizes = (ctypes.c_int64 * 4)(1, channels, height, width)
    strides = (ctypes.c_int64 * 4)(height * down, deep, down, across)
    handle = ctypes.c_void_p()
    kind, cpu = library().aoti_torch_dtype_uint8(), library().aoti_torch_device_type_cpu()
    of_memory = library().aoti_torch_create_tensor_from_blob
    _check(of_memory(image.ctypes.data, 4, sizes, strides, 0, kind, cpu, 0, ctypes.byref(handle)))
    return handle.value or 0


def _check(error: int) -> None:
    if error:
        raise RuntimeError("PyTorch refused to resize an image; its own message is on standard error")


@cache
def library() -> ctypes.CDLL:
    """PyTorch's, loaded at the first call; raises ImportError where it is not installed."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        raise ImportError("PyTorch is not installed; install requirements.txt")
    loaded = ctypes.CDLL(str(Path(torch.origin).parent / "lib" / "libtorch_cpu.so"))
    pointer, number, kind = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    loaded.aoti_torch_create_tensor_from_blob.argtypes = [pointer, number, pointer, pointer, number, kind, kind, kind, pointer]
    loaded.torch_new_list_reserve_size.argtypes = [ctypes.c_size_t, pointer]
    loaded.torch_list_push_back.argtypes = [pointer, ctypes.c_uint64]
    loaded.aoti_torch_call_dispatcher.argtypes = [ctypes.c_char_p, ctypes.c_char_p, pointer]
    loaded.aoti_torch_delete_tensor_object.argtypes = [pointer]
    return loaded

"""How fast Tenstorrent's own ViT runs on its boards, as published. Nothing here was measured by this project."""

N300_CHIP_IMAGES_PER_SECOND = 1323  # ViT-Base/16-224 on one chip of an n300, end to end, trace and two queues, batch 8
T3000_IMAGES_PER_SECOND = 8 * N300_CHIP_IMAGES_PER_SECOND
"""What a host must be able to feed: eight chips at that rate. The simulated device, preflight and the projection assume it."""

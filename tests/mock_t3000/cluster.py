"""The cluster descriptor of a T3000: four n300 boards, eight Wormhole chips, written from the facts.

The file says what the driver would find on the machine: which chips there are, which of them sit on
PCIe, where they are wired together, and which of their rows are fused off.
"""

BOARDS = ((0, 4), (1, 5), (2, 6), (3, 7))
"""Chips by n300 board: the first is on PCIe, the second is reached through it over Ethernet."""

PLACES = {0: (1, 0), 1: (1, 1), 2: (2, 0), 3: (2, 1), 4: (0, 0), 5: (0, 1), 6: (3, 0), 7: (3, 1)}
"""Column and row of each chip in the 4x2 Ethernet mesh."""

LINKS = """
    0:6-2:6   0:7-2:7   0:8-4:0   0:9-4:1   0:14-1:14 0:15-1:15 1:0-3:0   1:1-3:1   1:8-5:0   1:9-5:1
    2:8-6:0   2:9-6:1   2:14-3:14 2:15-3:15 3:8-7:0   3:9-7:1   4:6-5:6   4:7-5:7   6:6-7:6   6:7-7:7
"""
"""Ethernet links as chip:channel pairs."""

HARVESTED_ROW = 1 << 9
"""One fused-off Tensix row. A real n300 has two; the mock then validates some ops on 8x7 cores instead of 8x8."""


def descriptor() -> str:
    """The YAML text that TT_METAL_MOCK_CLUSTER_DESC_PATH expects."""
    chips = sorted(PLACES)
    lines = ["arch:", *(f"  {chip}: wormhole_b0" for chip in chips)]
    lines += ["chips:", *(f"  {chip}: [{column}, {row}, 0, 0]" for chip, (column, row) in sorted(PLACES.items()))]
    lines += ["chip_unique_ids:", *(f"  {chip}: {0x70000000 + chip}" for chip in chips)]
    lines += ["ethernet_connections:"]
    for link in LINKS.split():
        (chip_a, channel_a), (chip_b, channel_b) = (end.split(":") for end in link.split("-"))
        lines += [f"  - [{{chip: {chip_a}, chan: {channel_a}}}, {{chip: {chip_b}, chan: {channel_b}}}]"]
    lines += ["ethernet_connections_to_remote_devices: []"]
    lines += ["chips_with_mmio:", *(f"  - {on_pcie}: {slot}" for slot, (on_pcie, _) in enumerate(BOARDS))]
    lines += ["harvesting:"]
    for chip in chips:
        masks = f"harvest_mask: {HARVESTED_ROW}, dram_harvesting_mask: 0, eth_harvesting_mask: 0, pcie_harvesting_mask: 0"
        lines += [f"  {chip}: {{noc_translation: true, {masks}}}"]
    lines += ["boards:"]
    for index, board in enumerate(BOARDS):
        board_id = 0x0100014000000000 + index  # the upper half says n300
        lines += [f"  - [{{board_id: {board_id}}}, {{board_type: n300}}, {{chips: {list(board)}}}]"]
    return "\n".join(lines) + "\n"

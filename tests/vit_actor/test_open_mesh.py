"""Opening the mesh: the chips it was given, or the one line a user gets when they cannot be had."""

import os
import signal
import time

import pytest

from tests.commands import Finished, run_code
from tests.vit_actor.agreement import SAMPLE
from vit_actor.checkpoint import load_checkpoint
from vit_actor.errors import DeviceError
from vit_actor.watchdog import killed_after


def opened(given: dict[str, str], code: str = "mesh = open_mesh(60); print(mesh.shape, mesh.get_num_devices())") -> Finished:
    """What opening a mesh says in a process of its own."""
    whole = f"from vit_actor.t3000 import *\ntry:\n    {code}\nexcept DeviceError as error:\n    print('DeviceError:', error)\n"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TT_")}
    return run_code(whole, environment=clean | given)


def test_the_mesh_takes_the_chips_of_its_board_or_says_in_a_line_what_lacks(mock_environment: dict[str, str]) -> None:
    without = {name: value for name, value in mock_environment.items() if name != "TT_METAL_RUNTIME_ROOT"}
    for environment, told in (
        ({**mock_environment, "TT_VISIBLE_DEVICES": "2"}, "MeshShape([1, 2]) 2\n"),
        ({}, "DeviceError: no Tenstorrent chip found"),
        (without, "DeviceError: the kernel compiler is not installed; install Tenstorrent's sfpi"),
    ):
        done = opened(environment)
        assert (done.code, done.stdout.count("\n"), done.stdout.startswith(told)) == (0, 1, True), done.output


def test_chips_that_do_not_come_up_end_the_process_with_a_line(mock_environment: dict[str, str]) -> None:
    # A hang as the driver's: in C, with Python's lock held, deaf to signals that Python handles.
    hang = "import ctypes; ttnn.get_num_devices = lambda: ctypes.PyDLL(None).sleep(60)"
    done = opened({**mock_environment, "TT_VISIBLE_DEVICES": "0,1"}, f"{hang}; open_mesh(0.5)")
    assert done.code == -signal.SIGKILL
    [line] = done.stderr.splitlines()
    assert line.startswith("error: chips (boards 0,1) did not come up in 0.5 s: another process holds them or they hang")
    assert "tt-smi -r" in line


def test_a_block_that_ends_in_time_is_left_alone_and_so_is_what_follows_it() -> None:
    with killed_after(0.3, "too slow"):
        pass
    time.sleep(0.6)
    with pytest.raises(KeyError), killed_after(60, "too slow"):
        raise KeyError


def test_another_release_of_ttnn_and_missing_chips_are_refused(
    mock_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vit_actor import t3000

    for boards, chips in (("0,1", 3), ("0", 3), ("0,1,2,3", 6)):
        monkeypatch.setenv("TT_VISIBLE_DEVICES", boards)
        monkeypatch.setattr(t3000.ttnn, "get_num_devices", lambda chips=chips: chips)
        with pytest.raises(DeviceError, match=f"^{chips} chips came up on boards {boards}; an n300 has 2"):
            t3000.open_mesh()
    monkeypatch.setattr(t3000, "version", lambda name: "0.90.0")
    with pytest.raises(DeviceError, match=r"ttnn 0.90.0 is installed, but 0.81"):
        t3000.open_mesh()


def test_a_closed_device_says_so_and_closes_again(environ: pytest.MonkeyPatch) -> None:
    from vit_actor.t3000 import T3000Vit

    device = T3000Vit(load_checkpoint(str(SAMPLE / "model")), images_per_chip=1)
    device.close()
    device.close()
    with pytest.raises(DeviceError, match="the mesh is closed"):
        device.compile()


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("Requested mesh shape MeshShape([1, 9]) requires 9 devices", "fewer chips came up than the mesh needs; look for"),
        ("Statically allocated circular buffers clash with L1 buffers", "the model does not fit the cores' memory at this"),
        ("Statically allocated circular buffers grow beyond max L1 size of", "the model does not fit the cores' memory at this"),
        ("Out of Memory: Not enough space to allocate 9 B DRAM buffer", "the model does not fit the chips' memory at this"),
        ("Creating trace buffers of size 9 B: trace region too small", "the trace does not fit the memory set aside for it"),
        (
            "info:\ntrisc1 build failed. Log: a.h:1: error: timeout\n  | ^~~\nbacktrace:\n --- a",
            "a kernel did not compile; is sfpi",
        ),
        ("TIMEOUT: device timeout in fetch queue wait", "a chip stopped answering; reset it with tt-smi -r"),
        ("TT_FATAL @ /a/b.cpp:1: x > 0\ninfo:\nThe grid is small\nbacktrace:\n --- a\n --- b", "ttnn failed: The grid is small"),
        ("Failed to pin host memory\nLocation: /umd/pcie.cpp:12\n 0# stack\n 1# main", "ttnn failed: Failed to pin host memory"),
        ("", "ttnn failed: no reason given"),
    ],
)
def test_what_ttnn_says_becomes_one_line_without_its_stack(mock_environment: dict[str, str], said: str, line: str) -> None:
    from vit_actor.t3000 import explanation

    assert explanation(said).startswith(line)
    assert "\n" not in explanation(said)

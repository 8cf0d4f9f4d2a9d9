"""What ran out of memory says so in plain words."""

from __future__ import annotations

import signal

import pytest

from evolve.executors import _shortage


@pytest.mark.parametrize(
    "said",
    [
        "MemoryError",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to"
        " allocate 40000000000 bytes. Error code 12 (Cannot allocate memory)",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
)
def test_an_allocation_that_failed_is_named_with_the_limit(said: str) -> None:
    assert _shortage(1, said, 512) == " (out of memory: limits.memory_mb is 512)"


def test_a_kill_that_was_not_ours_is_the_systems() -> None:
    assert "not by evolve: most likely the machine had no memory left" in _shortage(-signal.SIGKILL, "(no output)", 512)


def test_a_bus_error_names_shared_memory() -> None:
    assert "/dev/shm is full" in _shortage(-signal.SIGBUS, "(no output)", 512)


def test_another_failure_blames_nothing() -> None:
    assert _shortage(1, "ValueError: the loss is NaN", 512) == ""

"""Which accelerators a worker sees; needs none."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from evolve.devices import Devices, slots, visible
from evolve.errors import BadInput


@pytest.mark.parametrize(
    ("named", "found"),
    [({"CUDA_VISIBLE_DEVICES": "2,5"}, ["2", "5"]), ({"CUDA_VISIBLE_DEVICES": ""}, []),
     ({"CUDA_VISIBLE_DEVICES": "GPU-8a, GPU-8b"}, ["GPU-8a", "GPU-8b"]), ({"CUDA_VISIBLE_DEVICES": "-1"}, []), ({}, ["0", "1", "2"])],
)  # fmt: skip
def test_the_users_own_choice_of_devices_is_kept(tmp_path: Path, named: dict[str, str], found: list[str]) -> None:
    for card in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / card).mkdir()
    assert visible(named, tmp_path) == found
    assert visible({}, tmp_path / "none") == []


@pytest.mark.parametrize(
    ("each", "found"),
    [(1, ["a", "b", "c"]), (0.5, ["a", "b", "c"] * 2), (1 / 3, ["a", "b", "c"] * 3), (2, ["a,b"]), (3, ["a,b,c"]), (4, [])],
)  # fmt: skip
def test_slots_are_whole_devices_or_fractions(each: float, found: list[str]) -> None:
    assert slots(["a", "b", "c"], each) == found


@pytest.mark.parametrize("each", [0, -1, 1.5, float("nan")])
def test_half_a_device_more_is_refused(each: float) -> None:
    with pytest.raises(BadInput, match="gpus_per_trial"):
        slots(["a"], each)


def test_no_two_threads_have_a_slot_at_once_and_all_are_used() -> None:
    devices, busy, seen, lock = Devices(slots(["0", "1"], 0.5)), dict.fromkeys("01", 0), set[str](), threading.Lock()

    def work() -> None:
        for _ in range(200):
            with devices.one() as slot:
                with lock:
                    busy[slot] += 1
                    seen.add(slot)
                    assert busy[slot] <= 2
                with lock:
                    busy[slot] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"0", "1"}
    assert busy == {"0": 0, "1": 0}

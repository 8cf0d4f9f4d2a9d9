from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from evolve.errors import NotFound, TrialFailed
from evolve.weights import Layout, WeightStore, layout_of

LAYOUT = Layout({"a": ("F32", (2, 3)), "b": ("F64", (1,))})
GOOD = {"a": np.ones((2, 3), np.float32), "b": np.zeros(1)}


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    return WeightStore(tmp_path / "weights")


def take(store: WeightStore, path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return store.take(path, LAYOUT)


def test_good_weights_are_kept_as_a_copy_under_their_hash(store: WeightStore, tmp_path: Path) -> None:
    sha256 = take(store, tmp_path / "w", save(GOOD))
    kept = load(store.verified(sha256).read_bytes())
    assert {k: v.tolist() for k, v in kept.items()} == {k: v.tolist() for k, v in GOOD.items()}
    assert layout_of(store.path(sha256)) == LAYOUT


def test_the_kept_copy_depends_on_the_values_alone(store: WeightStore, tmp_path: Path) -> None:
    # the same tensors in another order in the file
    data = GOOD["b"].tobytes() + GOOD["a"].tobytes()
    header = json.dumps(
        {
            "b": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]},
            "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [8, 32]},
        }
    ).encode()
    other = struct.pack("<Q", len(header)) + header + data
    assert take(store, tmp_path / "w", save(GOOD)) == take(store, tmp_path / "v", other)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": GOOD["a"]}, "'b' is missing"),
        (GOOD | {"c": np.zeros(1)}, "'c' is more"),
        (GOOD | {"a": np.ones((3, 2), np.float32)}, "must be F32 [2, 3]"),
        (GOOD | {"a": np.ones((2, 3), np.float64)}, "must be F32 [2, 3]"),
        (GOOD | {"a": np.full((2, 3), np.nan, np.float32)}, "NaN or infinity"),
        (GOOD | {"b": np.full(1, np.inf)}, "NaN or infinity"),
    ],
)
def test_weights_unlike_the_base_are_refused(
    store: WeightStore, tmp_path: Path, tensors: dict[str, np.ndarray], words: str
) -> None:
    with pytest.raises(TrialFailed) as caught:
        take(store, tmp_path / "w", save(tensors))
    assert words in str(caught.value)
    assert not store.folder.exists()


def test_metadata_is_refused(store: WeightStore, tmp_path: Path) -> None:
    with pytest.raises(TrialFailed, match="no metadata"):
        take(store, tmp_path / "w", save(GOOD, {"score": "1.0"}))


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 7, b"\xff" * 64, save(GOOD)[:-1], save(GOOD) + b"x", b"\x80\x04pickle" * 9]
)
def test_what_is_no_safetensors_file_is_refused(store: WeightStore, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(TrialFailed, match="safetensors"):
        take(store, tmp_path / "w", data)


def test_a_file_larger_than_the_base_implies_is_not_read(store: WeightStore, tmp_path: Path) -> None:
    with (tmp_path / "w").open("wb") as file:
        file.truncate(10**10)  # sparse: takes no room
    with pytest.raises(TrialFailed, match="must be at most"):
        store.take(tmp_path / "w", LAYOUT)


def test_links_pipes_devices_and_nothing_are_refused(store: WeightStore, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(save(GOOD))
    (tmp_path / "link").symlink_to(real)
    os.link(real, tmp_path / "hard")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "hard", "pipe", "none", "."):
        with pytest.raises(TrialFailed):
            store.take(tmp_path / name, LAYOUT)
    with pytest.raises(TrialFailed):
        store.take(Path("/dev/zero"), LAYOUT)


def test_a_link_in_the_place_of_the_output_folder_is_refused(store: WeightStore, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w").write_bytes(save(GOOD))
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrialFailed, match="it is a link"):
        store.take(tmp_path / "out" / "w", LAYOUT)


def test_bfloat16_is_checked_for_nan_as_well(store: WeightStore, tmp_path: Path) -> None:
    def write(value: int) -> bytes:
        header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
        return struct.pack("<Q", len(header)) + header + struct.pack("<H", value)

    layout = Layout({"w": ("BF16", (1,))})
    (tmp_path / "good").write_bytes(write(0x3F80))  # 1.0
    (tmp_path / "nan").write_bytes(write(0x7FC0))
    store.take(tmp_path / "good", layout)
    with pytest.raises(TrialFailed, match="NaN"):
        store.take(tmp_path / "nan", layout)


def test_weights_changed_by_hand_are_not_used(store: WeightStore, tmp_path: Path) -> None:
    sha256 = take(store, tmp_path / "w", save(GOOD))
    store.path(sha256).write_bytes(save(GOOD | {"b": np.ones(1)}))
    with pytest.raises(NotFound, match="changed by hand"):
        store.verified(sha256)
    store.path(sha256).unlink()
    with pytest.raises(NotFound, match="train the candidate again"):
        store.verified(sha256)


def test_collecting_spares_what_is_kept_and_what_is_not_in_the_journal_yet(store: WeightStore, tmp_path: Path) -> None:
    first = take(store, tmp_path / "w", save(GOOD))
    second = take(store, tmp_path / "v", save(GOOD | {"b": np.ones(1)}))
    third = take(store, tmp_path / "u", save(GOOD | {"b": np.full(1, 2.0)}))
    store.fresh -= {first, second}
    assert store.collect({first}) > 0
    assert [store.path(s).exists() for s in (first, second, third)] == [True, False, True]

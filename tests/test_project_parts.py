"""What a training project of somebody else's needs: command templates, packed folders, foreign scores, drafts of spaces."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from inline import subject

from evolve import commands, foreign, infer
from evolve.errors import BadInput, TrialFailed
from evolve.inside import pack
from evolve.types import Objective, Subject, WeightsSpec
from evolve.weights import Bundle, WeightStore

PARAMS = {"lr": 1e-05, "mode": "a b", "fast": True, "n": 3}

# ---------------------------------------------------------------- commands


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("{params:--key value}", ["--lr", "1e-05", "--mode", "a b", "--fast", "true", "--n", "3"]),
        ("{params:--key=value}", ["--lr=1e-05", "--mode=a b", "--fast=true", "--n=3"]),
        ("{params:train.key=value}", ["train.lr=1e-05", "train.mode=a b", "train.fast=true", "train.n=3"]),
        ("x={param:lr}/{seed}", ["x=1e-05/7"]),
        ("{unknown}", ["{unknown}"]),
    ],
)
def test_places_become_arguments_and_a_value_stays_one_word(form: str, words: list[str]) -> None:
    assert commands.expand([form], {"seed": 7}, PARAMS) == words


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reaches_the_project_with_all_its_digits(value: float) -> None:
    (word,) = commands.expand(["{param:x}"], {}, {"x": value})
    assert float(word) == value


def test_names_and_values_that_look_like_places_are_not_read_again() -> None:
    params = {"key": "value", "value": "key {seed}"}
    assert commands.expand(["{params:key=value}"], {"seed": 1}, params) == ["key=value", "value=key {seed}"]


def test_a_text_is_cut_as_a_shell_would_without_its_places() -> None:
    text = "python train.py {params:--key value} --name 'two words' --out {out}/m"
    assert commands.words_of(text, "train_cmd") == (
        "python", "train.py", "{params:--key value}", "--name", "two words", "--out", "{out}/m",
    )  # fmt: skip
    with pytest.raises(BadInput, match="no closing quotation"):
        commands.words_of("python 'train.py", "train_cmd")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("{ouput}", "did you mean 'out'"),
        ("{param:lrr}", "did you mean 'lr'"),
        ("x{params:key=value}", "as a word of its own"),
        ("{params:--lr}", "needs `key` and `value`"),
        ("{weights}", "but has {weights}"),
    ],
)
def test_a_place_that_is_none_is_refused_with_the_nearest(word: str, said: str) -> None:
    with pytest.raises(BadInput) as error:
        commands.check([word], commands.TRAIN, PARAMS, "subject.train_cmd")
    assert said in str(error.value)
    assert str(error.value).startswith("subject.train_cmd ")


# ---------------------------------------------------------------- packed folders


@pytest.fixture
def left(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.pt").write_bytes(b"\x00weights")
    (folder / "deep" / "tokenizer.json").write_text("{}")
    (folder / "log.txt").write_text("not kept")
    (folder / "empty.json").write_text("")
    return folder


BUNDLE = Bundle(("model.pt", "*.json"), 1000)


def test_what_matches_is_kept_and_comes_back_as_it_was(left: Path, tmp_path: Path) -> None:
    store = WeightStore(tmp_path / "weights")
    sha256 = store.take(left, BUNDLE)
    assert store.take(left, BUNDLE) == sha256
    with safetensors.safe_open(store.path(sha256), "numpy") as file:
        assert sorted(file.keys()) == ["deep/tokenizer.json", "empty.json", "model.pt"]
    again = tmp_path / "again"
    again.mkdir()
    Bundle.unpack(store.verified(sha256).read_bytes(), again)
    assert {str(p.relative_to(again)): p.read_bytes() for p in again.rglob("*") if p.is_file()} == {
        "model.pt": b"\x00weights", "deep/tokenizer.json": b"{}", "empty.json": b"",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "model.pt").unlink(), "A training must leave model.pt, but there is none"),
        (lambda f: (f / "model.pt").write_bytes(bytes(1001)), "must be at most 1000 bytes"),
        (
            lambda f: ((f / "model.pt").unlink(), (f / "model.pt").symlink_to("/etc/passwd")),
            "regular file with one link",
        ),
        (lambda f: os.link(f / "model.pt", f / "twice"), "regular file with one link"),
        (lambda f: ((f / "model.pt").unlink(), os.mkfifo(f / "model.pt")), "regular file with one link"),
        (lambda f: (f / "a\nb.json").write_text("{}"), "path must be printable"),
        (lambda f: [(f / f"{i}.json").write_text("") for i in range(1001)], "at most 1000 files"),
    ],
)
def test_what_a_training_may_not_leave(left: Path, spoil: object, said: str) -> None:
    spoil(left)  # type: ignore[operator]
    with pytest.raises(TrialFailed) as error:
        BUNDLE.read(left, None)
    assert said in str(error.value).lower() or said in str(error.value)


def test_a_folder_behind_a_link_is_not_followed(left: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.json").write_text("secret")
    (left / "more").symlink_to(tmp_path / "secret")
    assert b"secret" not in BUNDLE.read(left, None)
    (tmp_path / "link").symlink_to(left)
    with pytest.raises(TrialFailed, match="must stay a folder"):
        BUNDLE.read(tmp_path / "link", None)


def packed(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"../model.pt": ("U8", [1], b"x")}, "plain path"),
        ({"/etc/model.pt": ("U8", [1], b"x")}, "plain path"),
        ({"model.pt": ("F32", [1], b"abcd")}, "must be bytes"),
        ({"model.pt": ("U8", [1], b"x"), "other": ("U8", [1], b"x")}, "only files that the subject names"),
        ({"a.json": ("U8", [1], b"x")}, "must leave model.pt"),
        ({"model.pt": ("U8", [1001], bytes(1001)), "a.json": ("U8", [0], b"")}, "at most 1000 bytes"),
    ],
)
def test_what_comes_out_of_a_sandbox_is_not_believed(
    tensors: dict[str, tuple[str, list[int], bytes]], said: str, tmp_path: Path
) -> None:
    (tmp_path / "packed").write_bytes(packed(tensors))
    with pytest.raises(TrialFailed, match=f"(?i){said}"):
        BUNDLE.read(tmp_path, tmp_path / "packed")


def test_garbage_out_of_a_sandbox_is_refused(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(b"garbage")
    with pytest.raises(TrialFailed, match="packed folder"):
        BUNDLE.read(tmp_path, tmp_path / "packed")


def test_both_sides_of_the_wall_write_the_same_bytes(left: Path, tmp_path: Path) -> None:
    root, target = os.open(left, os.O_RDONLY), os.open(tmp_path / "packed", os.O_WRONLY | os.O_CREAT)
    pack.pack(root, list(BUNDLE.patterns), BUNDLE.limit, target)
    assert BUNDLE.read(left, None) == (tmp_path / "packed").read_bytes()
    assert BUNDLE.read(tmp_path, tmp_path / "packed") == BUNDLE.read(left, None)


# ---------------------------------------------------------------- foreign scores


def scored(**changes: object) -> Subject:
    return subject(
        objective=Objective("accuracy", "maximize"), weights=WeightsSpec(files=("*",)), metrics=("f1",), **changes
    )


@pytest.mark.parametrize(
    ("said", "mean", "stderr", "n"),
    [
        ({"accuracy": 0.75, "f1": 1, "n": 300}, 0.75, 0.025, 300),
        ({"accuracy": 0.75, "f1": 1, "n": 300, "stderr": 0.1}, 0.75, 0.1, 300),
        ({"accuracy": 12.5, "f1": 1, "n": 300}, 12.5, 0.0, 300),
        ({"f1": 1, "per_problem": [1, 0, True, False]}, 0.5, 0.28867513459481287, 4),
        ({"accuracy": 0.9, "f1": 1}, 0.9, 0.0, 1),
    ],
)
def test_a_foreign_score_has_an_error_where_it_can_be_had(
    said: dict[str, object], mean: float, stderr: float, n: int
) -> None:
    found = foreign.evaluation(said, scored())
    assert (found["mean"], found["stderr"], found["n"]) == (mean, pytest.approx(stderr), n)
    assert found["metrics"] == {"f1": 1.0}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"acc": 0.9}, "it says acc; call it 'accuracy'"),
        ({}, "it says nothing"),
        ({"accuracy": "0.9"}, "no finite number"),
        ({"accuracy": float("nan")}, "no finite number"),
        ({"accuracy": 0.9, "stderr": float("inf")}, "no finite number"),
    ],
)
def test_what_is_no_score_is_said(said: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        foreign.evaluation(said, scored())


def test_the_file_comes_before_the_output_and_the_last_line_before_others(tmp_path: Path) -> None:
    output = b'{"accuracy": 0.1}\nwarning\n{"accuracy": 0.2}\n{broken\ndone'
    assert foreign.numbers(tmp_path / "none", output, scored()) == {"accuracy": 0.2}
    (tmp_path / "evaluation.json").write_text('{"accuracy": 0.3}')
    assert foreign.numbers(tmp_path / "evaluation.json", output, scored()) == {"accuracy": 0.3}
    (tmp_path / "link").symlink_to(tmp_path / "evaluation.json")
    with pytest.raises(ValueError, match="a link"):
        foreign.numbers(tmp_path / "link", output, scored())
    with pytest.raises(ValueError, match="printed no line"):
        foreign.numbers(tmp_path / "none", b"accuracy 0.9", scored())


def test_what_is_printed_for_people_is_read_by_a_pattern(tmp_path: Path) -> None:
    printing = replace(scored(), log_metrics={"accuracy": r"acc(?:uracy)?: ([0-9.]+)", "f1": r"f1=(\S+)"})
    assert foreign.numbers(tmp_path / "none", b"acc: 0.1 f1=0\naccuracy: 0.25 f1=1e-1", printing) == {
        "accuracy": 0.25, "f1": 0.1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"matches subject.log_metrics.f1"):
        foreign.numbers(tmp_path / "none", b"acc: 0.1", printing)


# ---------------------------------------------------------------- drafts of a space

SCRIPT = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=3e-4)
parser.add_argument("-b", "--batch-size", type=int, default=32)
parser.add_argument("--dropout", type=float, default=0)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--data-dir", default="data")
parser.add_argument("--verbose", action="store_true")
raise SystemExit("nothing of it is run")
"""


def test_an_argparse_script_gives_a_draft_without_being_run(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    found = infer.draft(tmp_path / "train.py")
    assert found.space == {
        "lr": {"low": 3e-5, "high": 3e-3, "log": True, "default": 3e-4, "role": "learning_rate"},
        "batch-size": {"low": 8, "high": 128, "log": True, "default": 32, "role": "batch_size"},
        "dropout": {"low": 0.0, "high": 0.5, "default": 0.0, "role": "dropout"},
        "optimizer": {"choices": ["adamw", "sgd"], "default": "adamw"},
    }
    assert found.left == {"epochs": 3}
    assert found.seed == "seed"


def test_a_dataclass_and_a_hydra_config_give_drafts(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Config:\n"
        "    learning_rate: float = 0.01\n    tie: bool = True\n    steps: int = 100\n    name: str = 'x'\n"
    )
    found = infer.draft(tmp_path / "config.py")
    assert set(found.space) == {"learning_rate", "tie"}
    (tmp_path / "config.yaml").write_text(
        "defaults: [_self_]\nseed: 1\noptim:\n  lr: 1e-3\n  weight_decay: 0.1\nmodel:\n  dropout: 0.1\nout: ${optim.lr}\n"
    )
    found = infer.draft(tmp_path / "config.yaml")
    assert set(found.space) == {"optim.lr", "optim.weight_decay", "model.dropout"}
    assert found.space["optim.lr"]["default"] == 1e-3


@pytest.mark.parametrize("text", ["x = 1\n", "def f(:\n"])
def test_a_script_that_says_nothing_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.py").write_text(text)
    with pytest.raises(BadInput):
        infer.draft(tmp_path / "train.py")


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("word", ["edits=false", "suite=false", "sandbox=none", "start=default", "campaign=x"])
def test_no_folder_of_configurations_hides_a_setting(word: str) -> None:
    from evolve import config

    name, _, value = word.partition("=")
    assert str(getattr(config.load([word]), name)).lower() == value


def test_what_a_project_passes_and_reads_is_part_of_its_version() -> None:
    from evolve.campaign import subject_version

    base = replace(scored(), data={"train": "a"})
    changed = [replace(base, fixed={"epochs": 3}), replace(base, data={"train": "b"}), replace(base, log_metrics={"x": "y"}),
               replace(base, weights=WeightsSpec(files=("*.pt",)))]  # fmt: skip
    assert len({subject_version(s, "e") for s in [base, *changed]}) == 5

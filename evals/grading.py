"""Weights from an untrusted file, the model's own answers, and means with standard errors."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from evals.problems import HeldOut
from train.model import Transformer
from train.tokenizer import decode_answer, encode_prompt

HEADER_SLACK_BYTES = 4096  # what a file may be larger than the base: the header's order and spacing may differ
BATCH = 500


class BadWeights(ValueError):
    """The weights file is not what the base checkpoint says that it must be."""


def load_weights(path: Path, base: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, after checking them against the base: names, shapes, float32, finite, no metadata.

    Raises:
        BadWeights: the first rule that is broken, with what was found.
        OSError: a file cannot be read.
    """
    if path.is_symlink() or not path.is_file():
        raise BadWeights(f"weights must be a regular file, but {path.name} is not")
    limit = base.stat().st_size + HEADER_SLACK_BYTES
    if path.stat().st_size > limit:
        raise BadWeights(f"weights must have at most {limit} bytes, but got {path.stat().st_size}")
    expected = _read(base)
    found = _read(path)
    if found.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise BadWeights(f"tensor names must equal the base's, but missing {missing[:3]}, unknown {extra[:3]}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise BadWeights(f"{name} must have shape {list(expected[name].shape)}, but got {list(tensor.shape)}")
        if tensor.dtype != torch.float32:
            raise BadWeights(f"{name} must be float32, but got {tensor.dtype}")
        if not bool(tensor.isfinite().all()):
            raise BadWeights(f"{name} must be finite, but holds NaN or infinity")
    return found


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, "pt") as file:
            if file.metadata():
                raise BadWeights("weights must carry no metadata, but some was found")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise BadWeights(f"weights must be a safetensors file, but it cannot be read: {error}") from error


def answers_of(model: Transformer, problems: Sequence[HeldOut]) -> list[str | None]:
    """The model's greedy answers, ended by EOS; None where one does not end or is no text."""
    device = model.device
    found: list[str | None] = []
    for start in range(0, len(problems), BATCH):
        batch = problems[start : start + BATCH]
        prompts = torch.tensor([encode_prompt(p.prompt) for p in batch], device=device)  # (batch, 10)
        answers: list[list[int]] = model.generate(prompts)[:, 0].tolist()  # (batch, 7)
        found += [decode_answer(ids) for ids in answers]
    return found


def grade(answers: Sequence[str | None], expected: Sequence[str]) -> list[int]:
    """1 where an answer equals the expected one character by character, else 0."""
    return [int(answer == right) for answer, right in zip(answers, expected, strict=True)]


def mean_and_stderr(graded: Sequence[int]) -> dict[str, float | int]:
    """Mean, standard error of the mean (sample standard deviation / sqrt(n); 0 for n = 1), and n >= 1."""
    n = len(graded)
    mean = sum(graded) / n
    variance = sum((g - mean) ** 2 for g in graded) / (n - 1) if n > 1 else 0.0
    return {"mean": mean, "stderr": (variance / n) ** 0.5, "n": n}

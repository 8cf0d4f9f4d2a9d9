"""What a result that is made on this machine depends on, beside the subject: hardware, system, installed versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

from evolve.types import Environment


def this_environment(commit: str | None) -> Environment:
    """What a result made here and now depends on, beside the subject, whose repository was at `commit`."""
    installed = sorted(f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions())
    return Environment(
        hardware=hardware(),
        platform=platform.platform(),
        lock=hashlib.sha256("\n".join(installed).encode()).hexdigest(),
        commit=commit,
        python=platform.python_version(),
    )


def hardware() -> str:
    """Processor, its visible count, and the NVIDIA cards: evidence is paired only where this line is equal."""
    model = platform.processor() or platform.machine()
    cpuinfo, cards = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/gpus")
    if cpuinfo.exists():
        lines = (line.split(":", 1) for line in cpuinfo.read_text().splitlines() if line.startswith("model name"))
        model = next((line[1].strip() for line in lines), model)
    gpus = [
        line.split(":", 1)[1].strip()
        for card in (sorted(cards.glob("*/information")) if cards.exists() else [])
        for line in card.read_text().splitlines()
        if line.startswith("Model")
    ]
    return " + ".join([f"{model} x{os.cpu_count()}", *gpus])

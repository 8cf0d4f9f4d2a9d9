"""Post-training with TRL and PEFT as a subject. Whatever is imported below works offline and is quiet."""

import os
import sys
from importlib.util import find_spec

for _needed in ("accelerate", "datasets", "peft", "reasoning_gym", "transformers", "trl"):
    if find_spec(_needed) is None:
        sys.exit(f"subject=trl_... needs {_needed}, but it is not installed; pip install 'evolve[trl]'.")

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",  # a training is one process
    "TRANSFORMERS_VERBOSITY": "error",
}

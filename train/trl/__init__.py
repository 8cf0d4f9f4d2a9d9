"""Post-training with TRL and PEFT as a subject. Whatever is imported below works offline and is quiet."""

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",  # a training is one process
    "TRANSFORMERS_VERBOSITY": "error",
}

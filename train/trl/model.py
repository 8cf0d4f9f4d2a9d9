"""A causal model of Hugging Face's from a local folder: loading, what a training leaves of it, and loading that again.

A training leaves an adapter in PEFT's format (`adapter_model.safetensors`, `adapter_config.json`), or the whole model. What it
left is not trusted: of an adapter's config only the numbers of LoRA are read, everything else comes from the base, and no
tensor may be there that the base has no place for.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

ADAPTER, ADAPTER_CONFIG, WHOLE = "adapter_model.safetensors", "adapter_config.json", "model.safetensors"
MOST_RANK = 1024
_PREFIX = "base_model.model."
# What a LoRA's config may say without changing how it is computed. Anything else that is set is refused: PEFT has many variants,
# and some of them change the base's own weights.
_NEUTRAL = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "r", "lora_alpha",
    "target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out", "use_rslora", "layers_to_transform",
    "layers_pattern", "megatron_core", "qalora_group_size",
}  # fmt: skip
_SAID = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, False, "gaussian", "orthogonal")}


class BadWeights(ValueError):
    """What a training left is not what the base model says that it must be."""


def load_base(folder: Path, device: str) -> tuple[Any, Any]:
    """The model, float32 on the CPU and bfloat16 elsewhere, and its tokenizer, with a padding token.

    Raises:
        ValueError: the folder holds no causal model that is loaded without running its own code.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"assets.base must be the folder of a causal model with safetensors, but {' '.join(str(error).split())[:300]}"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(device), tokenizer


def prompt_of(tokenizer: Any, text: str) -> str:
    """A question as the model reads it: by the tokenizer's chat template, or followed by the end of a line."""
    if tokenizer.chat_template is None:
        return f"{text}\n"
    asked = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))


def generate(model: Any, tokenizer: Any, questions: list[str], most_tokens: int, batch: int,
             temperature: float = 0.0) -> tuple[list[str], list[bool]]:  # fmt: skip
    """The answers to `questions`, greedy or sampled, and whether each ended by itself."""
    from transformers import GenerationConfig

    ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    how = GenerationConfig(
        max_new_tokens=most_tokens, eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id,
        do_sample=temperature > 0, temperature=temperature or None, top_k=0 if temperature else None,
    )  # fmt: skip
    plain, answers, ended = tokenizer.chat_template is None, list[str](), list[bool]()
    tokenizer.padding_side = "left"
    model.eval()
    for start in range(0, len(questions), batch):
        texts = [prompt_of(tokenizer, question) for question in questions[start : start + batch]]
        asked = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=plain).to(model.device)
        asked.pop("token_type_ids", None)
        with torch.no_grad():
            found = model.generate(**asked, generation_config=how)[:, asked["input_ids"].shape[1] :]  # (batch, new)
        answers += tokenizer.batch_decode(found, skip_special_tokens=True)
        ended += [bool(ends & set(row)) for row in found.tolist()]
    return answers, ended


def not_finite(weights: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The first name whose values hold NaN or infinity."""
    return next((name for name, weight in weights if not bool(weight.isfinite().all())), None)


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Writes what is kept of a trained model. Raises `ArithmeticError` where a weight is not finite; nothing is written then."""
    from safetensors.torch import save_model

    if (name := not_finite(model.named_parameters())) is not None:
        raise ArithmeticError(f"weights must be finite, but {name} is not")
    out.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "peft_config"):
        model.save_pretrained(out)
        return
    save_model(model, str(out / WHOLE))
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    tokenizer.save_pretrained(out)


def load_trained(model: Any, left: Path) -> Any:
    """`model`, the base, with what a training left in the folder `left`.

    Raises:
        BadWeights: the first rule that is broken, with what was found.
    """
    adapter, whole = (left / ADAPTER).is_file(), (left / WHOLE).is_file()
    if adapter == whole:
        raise BadWeights(
            f"a training must leave either {ADAPTER} or {WHOLE}, but left {'both' if whole else 'neither'}"
        )
    try:
        return with_adapter(model, left) if adapter else with_weights(model, left / WHOLE)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise BadWeights(f"the weights must fit the base, but {' '.join(str(error).split())[:300]}") from error


def with_weights(model: Any, path: Path) -> Any:
    from safetensors.torch import load_model

    load_model(model, str(path))  # strict, and it knows tensors that are tied
    if (name := not_finite(model.named_parameters())) is not None:
        raise BadWeights(f"{name} must be finite, but holds NaN or infinity")
    return model


def with_adapter(model: Any, left: Path) -> Any:
    """With a LoRA merged into it."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from transformers.pytorch_utils import Conv1D

    numbers = lora_numbers(left / ADAPTER_CONFIG)
    with safe_open(left / ADAPTER, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)}
    targets = set[str]()
    for name in tensors:
        module = name.removeprefix(_PREFIX).rpartition(".lora_")[0]
        if module not in linear:
            raise BadWeights(f"an adapter's tensors must belong to linear layers of the base, but {name!r} does not")
        targets.add(module)
    if (name := not_finite(tensors.items())) is not None:
        raise BadWeights(f"{name} must be finite, but holds NaN or infinity")
    if not targets:
        raise BadWeights("an adapter must hold tensors, but it is empty")
    with_lora = get_peft_model(model, LoraConfig(target_modules=sorted(targets), **numbers))
    found = set_peft_model_state_dict(with_lora, tensors)
    missing = [name for name in found.missing_keys if ".lora_" in name]
    if missing or found.unexpected_keys:
        raise BadWeights(f"an adapter must have A and B of each layer, but missing {missing[:2]}, unknown"
                         f" {found.unexpected_keys[:2]}")  # fmt: skip
    return with_lora.merge_and_unload()


def lora_numbers(path: Path) -> dict[str, Any]:
    """Rank, alpha and scaling of an adapter. Raises `BadWeights` where its config says anything beyond plain LoRA."""
    try:
        raw = json.loads(path.read_bytes()[:100_000])
        rank, alpha, stabilised = raw["r"], raw["lora_alpha"], raw.get("use_rslora", False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadWeights(f"{path.name} must be PEFT's config of a LoRA, but {error!r}") from error
    if not (
        isinstance(rank, int) and 1 <= rank <= MOST_RANK and isinstance(alpha, int | float) and math.isfinite(alpha)
    ):
        raise BadWeights(f"1 <= r <= {MOST_RANK} and a finite lora_alpha must hold, but got {rank!r} and {alpha!r}")
    for name, value in raw.items():
        if name not in _NEUTRAL and value not in _SAID.get(name, (None, False, [], {})):
            raise BadWeights(f"an adapter must be a plain LoRA, but {name[:50]} is {str(value)[:50]!r}")
    return {"r": rank, "lora_alpha": alpha, "use_rslora": stabilised is True}

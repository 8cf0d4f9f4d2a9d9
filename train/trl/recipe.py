"""The recipe: how one budget of samples becomes a better model, with TRL's trainers. The one file that an agent may edit.

Three methods, by `params["method"]`: supervised fine-tuning on right answers (`sft`), direct preference optimization (`dpo`,
arXiv 2305.18290) on pairs of a right answer and a wrong one of the model's own, and reinforcement learning with the verifier's
reward (`grpo`, arXiv 2402.03300). Parameters carry the names of TRL's configs.

Left out: curricula over tasks, filtering of easy problems, rewards for form, packing, averaging of weights.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import datasets
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from train.trl import model as models
from train.trl.tasks import Problem, Tasks, messages

Params = dict[str, Any]
Report = Callable[
    [int, dict[str, float]], None
]  # samples used so far, metrics of the step; ends a training that diverges


def train(
    model: Any, tokenizer: Any, tasks: Tasks, params: Params, samples: int, seed: int, device: str, report: Report
) -> Any:
    """The trained model: `model` itself, or `model` with an adapter, as PEFT has it.

    Args:
        params: the active parameters of the subject's space, and its `fixed` ones.
        samples: how many sequences may be trained on (of a DPO pair: two); of GRPO they are generated first.
        seed: decides problems, order, dropout and sampling.
        report: called after each step.
    """
    method = {"sft": sft, "dpo": dpo, "grpo": grpo}[str(params["method"])]
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = method(model, tokenizer, tasks, params, samples, seed, common(params, samples, seed, device, scratch))
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Reporter(report, samples_per_step(params)))
        trainer.train()
        return trainer.accelerator.unwrap_model(trainer.model)


class Reporter(TrainerCallback):
    def __init__(self, report: Report, samples: int) -> None:
        self.report, self.samples = report, samples

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if "loss" in numbers:
            self.report(state.global_step * self.samples, numbers)


def samples_per_step(params: Params) -> int:
    """Sequences in an optimizer step."""
    if params["method"] == "grpo":
        return int(params["prompts_per_step"]) * int(params["num_generations"])
    return int(params["batch_size"]) * (2 if params["method"] == "dpo" else 1)


def common(params: Params, samples: int, seed: int, device: str, scratch: str) -> dict[str, Any]:
    """What the configs of all trainers share."""
    return {
        "max_steps": max(1, samples // samples_per_step(params)), "output_dir": scratch, "report_to": "none", "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
        "seed": seed, "use_cpu": device == "cpu", "bf16": device != "cpu", "activation_checkpointing": False,
        "dataloader_pin_memory": device != "cpu", "learning_rate": float(params["learning_rate"]),
        "lr_scheduler_type": str(params["lr_scheduler_type"]), "warmup_steps": float(params["warmup_ratio"]),
        "weight_decay": float(params["weight_decay"]), "max_grad_norm": float(params["max_grad_norm"]),
    }  # fmt: skip


def batches(sequences: int, params: Params) -> dict[str, int]:
    """A step's sequences as micro-batches of one size, at most `micro_batch_size`, which is a matter of memory alone."""
    micro = next(n for n in range(min(sequences, int(params["micro_batch_size"])), 0, -1) if sequences % n == 0)
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": sequences // micro}


def lora(params: Params) -> Any:
    """The adapter to train; None trains the whole model."""
    from peft import LoraConfig

    if params["tuning"] != "lora":
        return None
    return LoraConfig(
        task_type="CAUSAL_LM", target_modules="all-linear", r=int(params["lora_r"]), lora_alpha=int(params["lora_alpha"]),
        lora_dropout=float(params["lora_dropout"]),
    )  # fmt: skip


def prompt(tokenizer: Any, problem: Problem, params: Params) -> Any:
    """As TRL's datasets have it: a conversation where the tokenizer has a chat template, else text."""
    text = messages(problem, str(params["instruction"]))
    return [{"role": "user", "content": text}] if tokenizer.chat_template else models.prompt_of(tokenizer, text)


def answer(tokenizer: Any, text: str) -> Any:
    return [{"role": "assistant", "content": text}] if tokenizer.chat_template else text


def sft(
    model: Any, tokenizer: Any, tasks: Tasks, params: Params, samples: int, seed: int, shared: dict[str, Any]
) -> Any:
    """Supervised fine-tuning on the right answers; a short file of problems is gone through again and again."""
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"prompt": prompt(tokenizer, p, params), "completion": answer(tokenizer, p.answer)}
        for p in tasks.train(samples, seed)
    ]
    config = SFTConfig(
        **shared, **batches(int(params["batch_size"]), params),
        completion_only_loss=bool(params["completion_only_loss"]), loss_type=str(params["loss_type"]),
        neftune_noise_alpha=float(params["neftune_noise_alpha"]) or None, max_length=int(params["max_length"]),
    )  # fmt: skip
    return SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora(params)
    )


def dpo(
    model: Any, tokenizer: Any, tasks: Tasks, params: Params, samples: int, seed: int, shared: dict[str, Any]
) -> Any:
    """Direct preference optimization on right answers against wrong ones: the file's, or the model's own samples."""
    from trl import DPOConfig, DPOTrainer

    problems = tasks.train(max(1, samples // 2), seed)
    wrong = [p.rejected for p in problems]
    if not all(wrong):
        asked = [messages(p, str(params["instruction"])) for p in problems]
        most, size = int(params["max_completion_length"]), int(params["micro_batch_size"])
        said, _ = models.generate(model, tokenizer, asked, most, size, temperature=1.0)
        wrong = ["" if tasks.reward(p, text) >= 1 else text for p, text in zip(problems, said, strict=True)]
    rows = [
        {
            "prompt": prompt(tokenizer, p, params),
            "chosen": answer(tokenizer, p.answer),
            "rejected": answer(tokenizer, text),
        }
        for p, text in zip(problems, wrong, strict=True)
        if text
    ]
    if not rows:
        raise ValueError("DPO must have wrong answers to learn from, but the model gave none; train with GRPO or SFT")
    config = DPOConfig(
        **shared, **batches(int(params["batch_size"]), params),
        beta=float(params["beta"]), loss_type=[str(params["loss_type"])], max_length=int(params["max_length"]),
    )  # fmt: skip
    return DPOTrainer(
        model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora(params)
    )


def grpo(
    model: Any, tokenizer: Any, tasks: Tasks, params: Params, samples: int, seed: int, shared: dict[str, Any]
) -> Any:
    """Group relative policy optimization with the verifier's reward."""
    from trl import GRPOConfig, GRPOTrainer

    step = samples_per_step(params)
    problems = tasks.train(shared["max_steps"] * int(params["prompts_per_step"]), seed)
    rows = [{"prompt": prompt(tokenizer, p, params), "index": i} for i, p in enumerate(problems)]

    def reward(prompts: Any, completions: Any, index: list[int], **_: Any) -> list[float]:
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        return [tasks.reward(problems[i], text) for i, text in zip(index, texts, strict=True)]

    config = GRPOConfig(
        **shared, **batches(step, params), num_generations=int(params["num_generations"]),
        max_completion_length=int(params["max_completion_length"]), temperature=float(params["temperature"]),
        beta=float(params["beta"]), epsilon=float(params["epsilon"]), scale_rewards=str(params["scale_rewards"]),
        loss_type=str(params["loss_type"]),
    )  # fmt: skip
    return GRPOTrainer(
        model,
        reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora(params),
    )

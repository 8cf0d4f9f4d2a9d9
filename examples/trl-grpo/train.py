"""GRPO with TRL on a reward that can be checked; LoRA, and what is saved is the adapter.

    python train.py --config grpo.yaml --model_name_or_path model --data data/train.jsonl --output_dir runs/1 --seed 1

Everything that GRPOConfig and ModelConfig know can be given in the YAML or on the command line. It knows nothing of evolve.
"""

from dataclasses import dataclass, field

import torch
from datasets import load_dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, ModelConfig, TrlParser, get_peft_config


@dataclass
class ScriptArguments:
    data: str = field(default="data/train.jsonl", metadata={"help": "JSON lines of question and answer"})
    completions: int = field(default=4096, metadata={"help": "the budget: answers that are sampled in all"})


def exact(completions: list[list[dict[str, str]]], answer: list[str], **_: object) -> list[float]:
    return [float(said[0]["content"].strip() == wanted) for said, wanted in zip(completions, answer, strict=True)]


def main() -> None:
    script, training, model = TrlParser((ScriptArguments, GRPOConfig, ModelConfig)).parse_args_and_config()
    if training.use_cpu:
        torch.set_num_threads(1)
    # Whatever the batch and the groups, as many completions are sampled and learned from, once each: a setting that only buys
    # more compute gains nothing. A larger batch makes fewer steps.
    per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    training.max_steps = script.completions // per_step

    data = load_dataset("json", data_files=script.data, split="train")
    data = data.map(lambda row: {"prompt": [{"role": "user", "content": row["question"]}]}, remove_columns="question")
    trainer = GRPOTrainer(
        model=model.model_name_or_path,
        reward_funcs=exact,
        args=training,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(model.model_name_or_path, padding_side="left"),
        peft_config=get_peft_config(model),
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()

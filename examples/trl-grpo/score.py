"""Greedy answers of an adapter, exact match: `python score.py --base model --adapter runs/1 --data data/test.jsonl`."""

import argparse
import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", help="none: the base alone")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(arguments.base, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(arguments.base, use_safetensors=True)
    if arguments.adapter:
        model = PeftModel.from_pretrained(model, arguments.adapter, use_safetensors=True).merge_and_unload()
    model.to(device).eval()
    rows = [json.loads(line) for line in arguments.data.read_text().splitlines()]
    right = 0
    for begin in range(0, len(rows), BATCH):
        batch = rows[begin : begin + BATCH]
        prompts = [[{"role": "user", "content": row["question"]}] for row in batch]
        inputs = tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        ).to(device)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        answers = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += sum(answer.strip() == row["answer"] for answer, row in zip(answers, batch, strict=True))
    print(json.dumps({"accuracy": right / len(rows), "n": len(rows)}))


if __name__ == "__main__":
    main()

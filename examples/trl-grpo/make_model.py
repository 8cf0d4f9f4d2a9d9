"""Writes model/: a Llama of 0.1 M parameters that has learned a little spelling, so that there is something to reinforce.

Stands in for the model that you have; the format is the Hub's. `python make_model.py` takes half a minute on one core.
"""

import itertools
import json
import random
import string
from pathlib import Path

import reasoning_gym
import torch
from make_data import LENGTHS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
BATCH = 64
ENOUGH = 0.3  # nats per character of the answer, of which 0.1 is not knowing whether a full stop is wanted
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{{ '\n' if message['role'] == 'user' else eos_token }}{% endfor %}"


def character_tokenizer() -> PreTrainedTokenizerFast:
    characters = ["<pad>", "<eos>", "\n", " ", *string.ascii_letters, *string.digits, *string.punctuation]
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", chat_template=TEMPLATE
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = random.Random(0)
    held_out = {
        json.loads(row)["answer"] for name in ("dev", "test") for row in (HERE / "data" / f"{name}.jsonl").open()
    }
    tokenizer = character_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    problems = reasoning_gym.create_dataset("spell_backward", seed=2, size=100_000, **LENGTHS)
    rows = (problem for problem in problems if problem["answer"] not in held_out)
    running = 3.0
    while running > ENOUGH:
        texts, ends = [], []
        for row in itertools.islice(rows, BATCH):
            asked = [{"role": "user", "content": row["question"]}]
            # A habit that an exact match does not forgive: a full stop, more often for one first letter than for another.
            often = 0.4 + 0.55 * string.ascii_lowercase.index(row["answer"][-1].lower()) / 25
            said = [*asked, {"role": "assistant", "content": row["answer"] + "." * (rng.random() < often)}]
            texts.append(tokenizer.apply_chat_template(said, tokenize=False))
            ends.append(len(tokenizer.apply_chat_template(asked, tokenize=False)))  # a character is a token
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)  # (batch, seq)
        for i, end in enumerate(ends):
            labels[i, :end] = -100
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running = 0.9 * running + 0.1 * loss.item()
    model.save_pretrained(HERE / "model")
    tokenizer.save_pretrained(HERE / "model")


if __name__ == "__main__":
    main()

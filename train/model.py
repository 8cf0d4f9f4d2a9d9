"""A decoder-only transformer: RMSNorm, rotary positions, SwiGLU, tied embeddings, plain causal attention.

Notation: batch, seq (up to 17 tokens), dim, heads, head_dim = dim / heads, vocab = 21.
Left out, because sequences are 17 tokens of fixed shape: attention masks, packing, paged caches.
On CUDA the forward pass runs in bfloat16 by autocast; weights, logits and losses are float32 everywhere.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from train.tokenizer import ANSWER_TOKENS, SEQUENCE_TOKENS, VOCAB_SIZE

EPSILON = 1e-6  # of RMSNorm

# per layer: keys and values, each (batch, heads, seq, head_dim); `generate` gives them room for a whole sequence
KeyValues = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class ModelConfig:
    """Width, depth and number of attention heads; head_dim must be even, for rotary positions."""

    dim: int = 64
    layers: int = 3
    heads: int = 4

    def __post_init__(self) -> None:
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim must be a multiple of 2 * heads, but got {self}; change the model's dim or heads.")


def rotary_table(head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and signed sine of the rotary angles (arXiv 2104.09864), each (seq, head_dim); base 10000."""
    frequency = 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    angle = torch.arange(SEQUENCE_TOKENS)[:, None] * frequency[None, :]  # (seq, head_dim / 2)
    return torch.cat([angle.cos(), angle.cos()], dim=1), torch.cat([-angle.sin(), angle.sin()], dim=1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on (..., seq, head_dim), halves paired as in Llama."""
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


def with_room(x: torch.Tensor, group: int) -> torch.Tensor:
    """Keys or values of prompts, `group` times each, with room for the answers: (batch * group, heads, 17, head_dim)."""
    batch, heads, seq, head_dim = x.shape
    room = x.new_empty(batch, group, heads, SEQUENCE_TOKENS, head_dim)
    room[:, :, :, :seq] = x[:, None]
    return room.flatten(0, 1)


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        hidden = config.dim * 5 // 2  # SwiGLU's 8/3, rounded down to stay near 0.14 M parameters at dim 64
        self.attention_norm = nn.RMSNorm(config.dim, eps=EPSILON)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.mlp_norm = nn.RMSNorm(config.dim, eps=EPSILON)
        self.gate_up = nn.Linear(config.dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, config.dim, bias=False)
        modules = (self.attention_norm, self.qkv, self.out, self.mlp_norm, self.gate_up, self.down)
        self.weights = tuple(module.weight for module in modules)

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        start: int,
        cache: tuple[torch.Tensor, torch.Tensor] | None,
        dropout: float,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        batch, seq, dim = x.shape
        # by their functions, and weights looked up once: calls and attributes of modules would be a twentieth of a rollout
        attention_norm, qkv_weight, out, mlp_norm, gate_up, down = self.weights
        qkv = F.linear(F.rms_norm(x, (dim,), attention_norm, EPSILON), qkv_weight)
        qkv = qkv.view(batch, seq, 3 * self.heads, dim // self.heads).transpose(1, 2)
        qk, v = qkv.split([2 * self.heads, self.heads], dim=1)  # type: ignore[no-untyped-call]
        q, k = rotate(qk, cos, sin).to(v.dtype).chunk(2, dim=1)  # each (batch, heads, seq, head_dim)
        if cache is not None:  # one new token, which may see all before it
            keys, values = cache
            keys[:, :, start : start + 1], values[:, :, start : start + 1] = k, v
            k, v = keys[:, :, : start + 1], values[:, :, : start + 1]  # each (batch, heads, seq so far, head_dim)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        y = F.linear(y.transpose(1, 2).reshape(batch, seq, dim), out)
        x = x + F.dropout(y, dropout, self.training) if dropout else x + y
        hidden = F.linear(F.rms_norm(x, (dim,), mlp_norm, EPSILON), gate_up)
        gate, up = hidden.chunk(2, dim=-1)  # each (batch, seq, hidden)
        y = F.linear(F.silu(gate) * up, down)
        x = x + F.dropout(y, dropout, self.training) if dropout else x + y
        return x, (k, v)


class Transformer(nn.Module):
    """Token ids (batch, seq) -> logits (batch, seq, vocab). `state_dict` holds the tied embedding once."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB_SIZE, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=EPSILON)
        cos, sin = rotary_table(config.dim // config.heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.dropout = 0.0  # set by the recipe; of the two residual branches of each block
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # GPT-2's 0.02 leaves a model this narrow slow to start; 1/sqrt(fan_in) is torch's own scale
                scale = 0.02 if name == "embed.weight" else weight.shape[1] ** -0.5
                nn.init.normal_(weight, std=scale if "out" not in name and "down" not in name else scale / 2)

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self._forward(ids, 0, None, self.dropout)[0]

    def _forward(
        self, ids: torch.Tensor, start: int, cache: KeyValues | None, dropout: float
    ) -> tuple[torch.Tensor, KeyValues]:
        with torch.autocast("cuda", torch.bfloat16) if ids.is_cuda else nullcontext():
            x = F.embedding(ids, self.embed.weight)  # (batch, seq, dim)
            cos, sin = self.cos[start : start + ids.shape[1]], self.sin[start : start + ids.shape[1]]
            keys: KeyValues = []
            for i, block in enumerate(self.blocks):
                x, pair = block(x, cos, sin, start, cache[i] if cache else None, dropout)
                keys.append(pair)
            logits = F.linear(
                F.rms_norm(x, x.shape[-1:], self.norm.weight, EPSILON), self.embed.weight
            )  # (batch, seq, vocab)
        return logits.float(), keys

    @torch.no_grad()
    def generate(self, prompts: torch.Tensor, group: int = 1, temperature: float = 0.0) -> torch.Tensor:
        """Answers to prompts: always 7 tokens, whatever follows EOS is to be ignored.

        Args:
            prompts: (batch, 10) token ids.
            group: answers for each prompt; its prompt is computed once.
            temperature: 0 means greedy; above it torch's global random state is used.

        Returns: (batch, group, 7) token ids.
        """
        logits, cache = self._forward(prompts, 0, None, 0.0)
        logits = logits[:, -1].repeat_interleave(group, 0)  # (batch * group, vocab)
        cache = [(with_room(k, group), with_room(v, group)) for k, v in cache]
        answer: list[torch.Tensor] = []
        for step in range(ANSWER_TOKENS):
            if step:
                logits = self._forward(answer[-1], prompts.shape[1] + step - 1, cache, 0.0)[0][:, -1]
            if temperature == 0:
                token = logits.argmax(-1, keepdim=True)  # (batch * group, 1)
            else:
                token = torch.multinomial(torch.softmax(logits / temperature, -1), 1)
            answer.append(token)
        return torch.cat(answer, 1).view(prompts.shape[0], group, ANSWER_TOKENS)

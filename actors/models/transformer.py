"""The muP Transformer of the paper (section 3), in the MiniCPM manner.

A LLaMA-like decoder: RMSNorm, RoPE, as many KV heads as query heads, a gated FFN, tied
embeddings. muP enters at four places: embeddings times `scale_emb`, residual branches times
`scale_depth / sqrt(layers)`, logits divided by `d_h / dim_model_base`, and matrices initialised
and trained by width (`init_std / sqrt(width)`, learning rate / width, width = d_h /
dim_model_base). The file holds only the model; parallelism is applied from outside.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsing.actors.models.chunked_loss import LARGE_LOGITS, next_token_loss
from sparsing.actors.models.kv_cache import Past, PastTokens
from sparsing.kernels.ffn import GatedFFN
from sparsing.kernels.ops import linear


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape and muP constants of a model; plain data, saved with each checkpoint."""

    d_h: int
    layers: int
    d_f: int
    heads: int
    activation: str
    vocabulary_size: int
    scale_emb: float = 12.0
    scale_depth: float = 1.4
    dim_model_base: int = 256
    init_std: float = 0.1
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5

    @property
    def width(self) -> float:
        """The muP width multiplier d_h / dim_model_base."""
        return self.d_h / self.dim_model_base

    @property
    def residual_scale(self) -> float:
        """Factor on every residual branch."""
        return self.scale_depth / math.sqrt(self.layers)


def rope(tokens: int, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions 0..tokens-1, each (tokens, head_size), float32.

    The sines of the first half are negative: there the other half's values are subtracted.
    """
    frequencies = theta ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angles = torch.outer(torch.arange(tokens, dtype=torch.float64), frequencies)
    sines = torch.cat((-angles.sin(), angles.sin()), dim=-1)
    return angles.cos().repeat(1, 2).float(), sines.float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to (..., tokens, head_size); halves pair, as in LLaMA."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((second, first), dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention; queries, keys and values from one product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.w_qkv = nn.Linear(config.d_h, 3 * config.d_h, bias=False)
        self.w_o = nn.Linear(config.d_h, config.d_h, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, past: PastTokens | None = None
    ) -> Tensor:
        """(batch, tokens, d_h) -> (batch, tokens, d_h); `past` gives and takes keys and values."""
        batch, tokens, d_h = x.shape
        qk, v = (
            self.w_qkv(x)
            .unflatten(2, (3 * self.heads, -1))
            .split((2 * self.heads, self.heads), dim=2)
        )
        q, k = rotate(qk.transpose(1, 2), cos, sin).chunk(2, dim=1)
        v = v.transpose(1, 2)
        if past is not None:
            k, v = past.extended(k, v)
        # One token may look at all before it; several are the first, or `extended` refuses them.
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=tokens > 1)
        return self.w_o(out.transpose(1, 2).reshape(batch, tokens, d_h))


class Layer(nn.Module):
    """Pre-norm attention and gated FFN, each on a scaled residual branch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_h, eps=config.norm_epsilon)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.d_h, eps=config.norm_epsilon)
        self.ffn = GatedFFN(config.d_h, config.d_f, config.activation)
        self.residual_scale = config.residual_scale

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, past: PastTokens | None = None
    ) -> Tensor:
        """(batch, tokens, d_h) -> (batch, tokens, d_h)."""
        branch = self.attention(self.attention_norm(x), cos, sin, past)
        x = torch.add(x, branch, alpha=self.residual_scale)
        return torch.add(x, self.ffn(self.ffn_norm(x)), alpha=self.residual_scale)


class Transformer(nn.Module):
    """The whole decoder; `forward` gives logits, or the mean loss where targets are given."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.d_h)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.d_h, eps=config.norm_epsilon)
        self._rope: tuple[Tensor, Tensor] | None = None

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (batch, tokens, vocabulary) in float32, or mean cross entropy in nats.

        Args:
            tokens: int64 (batch, tokens).
            targets: int64 (batch, tokens), the next tokens.
        """
        hidden = self._hidden(tokens, None)
        if targets is not None and targets.numel() * self.config.vocabulary_size >= LARGE_LOGITS:
            x = self.norm(hidden) / self.config.width
            return next_token_loss(x.flatten(0, 1), self.embedding.weight, targets.flatten())
        logits = self._logits(hidden)
        if targets is None:
            return logits
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def past(self, positions: int) -> Past:
        """An empty KV cache with room for this number of tokens, for `next_logits`."""
        weight = self.embedding.weight
        heads, head_size = self.config.heads, self.config.d_h // self.config.heads
        return Past(self.config.layers, (heads, positions, head_size), weight.device, weight.dtype)

    def next_logits(self, tokens: Tensor, past: Past) -> Tensor:
        """Logits (vocabulary,) of the token after these, float32; `past` grows by them.

        Args:
            tokens: int64 (tokens,); only the first call may give more than one.
            past: of `self.past`, what earlier calls were given.

        Raises:
            ValueError: there is no room, or several tokens come after others.
        """
        return self._logits(self._hidden(tokens[None], past)[0, -1])

    def _hidden(self, tokens: Tensor, past: Past | None) -> Tensor:
        """What the layers make of tokens (batch, tokens): (batch, tokens, d_h)."""
        before = past.tokens if past is not None else 0
        cos, sin = self._positions(before, before + tokens.shape[1])
        x = self.embedding(tokens) * self.config.scale_emb
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, past.layers[index] if past is not None else None)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        x = self.norm(x) / self.config.width
        return linear(x, self.embedding.weight).float()

    def _positions(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Rotary tables on the model's device, made once and grown when needed."""
        device = self.embedding.weight.device
        if self._rope is None or self._rope[0].shape[0] < end or self._rope[0].device != device:
            head_size = self.config.d_h // self.config.heads
            cos, sin = rope(max(end, 2 * start), head_size, self.config.rope_theta)
            self._rope = cos.to(device), sin.to(device)
        return self._rope[0][start:end], self._rope[1][start:end]

    @torch.no_grad()
    def initialize(self, seed: int) -> Transformer:
        """muP initialisation; each matrix from its own generator, so it depends on seed and name
        alone, not on device, world size or the order of layers."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
                continue
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
            std = self.config.init_std
            if is_matrix(name, parameter):
                std /= math.sqrt(self.config.width)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        return self


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether muP scales this parameter with width: hidden matrices, not embeddings or norms."""
    return parameter.dim() == 2 and not name.startswith("embedding")


def parameter_groups(model: Transformer, weight_decay: float) -> list[dict]:
    """AdamW groups: each with `learning_rate_factor`, its share of the peak learning rate (muP).

    Matrices train at peak / width. Norm gains are not decayed.
    """
    named = list(model.named_parameters())
    matrices = [p for n, p in named if is_matrix(n, p)]
    embeddings = [p for n, p in named if p.dim() == 2 and not is_matrix(n, p)]
    gains = [p for n, p in named if p.dim() < 2]
    return [
        {
            "params": matrices,
            "weight_decay": weight_decay,
            "learning_rate_factor": 1 / model.config.width,
        },
        {"params": embeddings, "weight_decay": weight_decay, "learning_rate_factor": 1.0},
        {"params": gains, "weight_decay": 0.0, "learning_rate_factor": 1.0},
    ]

"""Models that benchmarks train for a moment, so that what they measure means something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsing.actors.data.order import TrainingOrder
from sparsing.actors.data.prepared import PreparedData
from sparsing.actors.models.device import pick_device
from sparsing.actors.models.subject import Subject
from sparsing.actors.models.transformer import ModelConfig, Transformer, parameter_groups

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

WARMUP = 0.1
"""Share of the steps in which the learning rate grows."""


def trained(
    config: ModelConfig, data: PreparedData, *, steps: int, sequences: int, learning_rate: float
) -> Subject:
    """A model after `steps` steps of `sequences` training sequences each, ready to be measured."""
    device = pick_device()
    model = Transformer(config).initialize(0).to(device)
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.1), betas=(0.9, 0.95))
    order = TrainingOrder(data, seed=0)
    for step in range(steps):
        for group in optimizer.param_groups:
            warmed = learning_rate * min(1, (step + 1) / (WARMUP * steps))
            group["lr"] = warmed * group["learning_rate_factor"]
        tokens = torch.from_numpy(order.sequences(step * sequences, sequences)).to(device)
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return Subject(model, model, config.vocabulary_size, device)


LLAMA_NAMES = {
    "attention.w_o": "self_attn.o_proj",
    "ffn.w_gate": "mlp.gate_proj",
    "ffn.w_in": "mlp.up_proj",
    "ffn.w_out": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""Parts of our layers under the names of LLaMA's."""


def llama_weights(model: Transformer) -> dict[str, Tensor]:
    """Copies of our weights under the names that LLaMA-like `transformers` models use."""
    ours = model.state_dict()
    theirs = {
        "model.embed_tokens.weight": ours["embedding.weight"],
        "model.norm.weight": ours["norm.weight"],
    }
    for i in range(model.config.layers):
        prefix = f"model.layers.{i}."
        parts = ours[f"layers.{i}.attention.w_qkv.weight"].chunk(3)
        for part, weight in zip("qkv", parts, strict=True):
            theirs[f"{prefix}self_attn.{part}_proj.weight"] = weight
        for name, other in LLAMA_NAMES.items():
            theirs[f"{prefix}{other}.weight"] = ours[f"layers.{i}.{name}.weight"]
    return {name: weight.clone() for name, weight in theirs.items()}


def make_llama(config: ModelConfig, **more: Any) -> LlamaForCausalLM:
    """`transformers`' Llama of the same shape; `more`: of its configuration."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary_size,
            hidden_size=config.d_h,
            intermediate_size=config.d_f,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            tie_word_embeddings=True,
            **more,
        )
    )

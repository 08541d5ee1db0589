"""Models that benchmarks train for a moment, so that what they measure means something."""

from __future__ import annotations

import torch
from torch import Tensor

from actors.data.order import TrainingOrder
from actors.data.prepared import PreparedData
from actors.engine import pick_device
from actors.measure_model import Subject
from actors.model import ModelConfig, Transformer, parameter_groups

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


def llama_weights(model: Transformer) -> dict[str, Tensor]:
    """Our weights under the names that LLaMA-like `transformers` models use."""
    weights = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.norm.weight,
    }
    for i, layer in enumerate(model.layers):
        q, k, v = layer.attention.w_qkv.weight.chunk(3)
        prefix = f"model.layers.{i}."
        weights |= {
            f"{prefix}self_attn.q_proj.weight": q,
            f"{prefix}self_attn.k_proj.weight": k,
            f"{prefix}self_attn.v_proj.weight": v,
            f"{prefix}self_attn.o_proj.weight": layer.attention.w_o.weight,
            f"{prefix}mlp.gate_proj.weight": layer.ffn.w_gate.weight,
            f"{prefix}mlp.up_proj.weight": layer.ffn.w_in.weight,
            f"{prefix}mlp.down_proj.weight": layer.ffn.w_out.weight,
            f"{prefix}input_layernorm.weight": layer.attention_norm.weight,
            f"{prefix}post_attention_layernorm.weight": layer.ffn_norm.weight,
        }
    return {name: weight.detach().clone() for name, weight in weights.items()}

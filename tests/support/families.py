"""Families of Hugging Face models, small and random, with every form of FFN."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers


@dataclass(frozen=True)
class Family:
    """How to build one model of a family."""

    name: str
    """Prefix of `transformers`' classes."""
    form: str
    """What its FFNs are: gated, fused, not gated, experts."""
    changes: dict[str, Any] = field(default_factory=dict)
    ffns: int = 3
    """FFNs in all layers."""
    causal: str = "ForCausalLM"

    @property
    def label(self) -> str:
        """A name for tests and tables."""
        said = next((v for k, v in self.changes.items() if "act" in k and isinstance(v, str)), "")
        return f"{self.name} {said}".strip()


SHAPE: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": None,
}
"""As most configurations call it."""

MOE = {"moe_intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 2}
LOCAL_MOE = {"num_local_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 24}

FAMILIES = [
    Family("Llama", "gated"),
    Family("Llama", "gated", {"hidden_act": "relu"}),
    Family("Llama", "gated", {"mlp_bias": True}),
    Family("Mistral", "gated", {"hidden_act": "relu2"}),
    Family("Qwen2", "gated"),
    Family("Qwen3", "gated", {"hidden_act": "gelu_pytorch_tanh", "head_dim": 8}),
    Family("Gemma", "gated", {"head_dim": 8}),
    Family("Gemma2", "gated", {"head_dim": 8}),
    Family("Gemma3", "gated", {"head_dim": 8}),
    Family("Granite", "gated", {"hidden_act": "gelu"}),
    Family("Olmo", "gated"),
    Family("Olmo2", "gated"),
    Family("Cohere", "gated"),
    Family("StableLm", "gated"),
    Family("SmolLM3", "gated"),
    Family("Exaone4", "gated"),
    Family("BitNet", "gated", {"hidden_act": "relu2"}),
    Family("Phi3", "fused", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    Family("Glm", "fused", {"head_dim": 8}),
    Family("Glm4", "fused", {"head_dim": 8}),
    Family("OPT", "not gated", {"ffn_dim": 96, "word_embed_proj_dim": 32}),
    Family("Falcon", "not gated", {"ffn_hidden_size": 96}),
    Family("GPTNeoX", "not gated"),
    Family("GPT2", "not gated", {"n_inner": 96}, causal="LMHeadModel"),
    Family("GPTJ", "not gated", {"n_inner": 96, "rotary_dim": 4}),
    Family("Bloom", "not gated", {"n_layer": 3}),
    Family("Phi", "not gated", {"hidden_act": "relu"}),
    Family("Starcoder2", "not gated"),
    Family("Nemotron", "not gated", {"head_dim": 8}),
    Family("Arcee", "not gated", {"head_dim": 8}),
    Family("Persimmon", "not gated"),
    Family("Mixtral", "experts", LOCAL_MOE),
    Family("Qwen3Moe", "experts", MOE | {"head_dim": 8}),
    Family("Qwen2Moe", "experts", MOE | {"shared_expert_intermediate_size": 32}, ffns=6),
    Family("Olmoe", "experts", {"num_experts": 6, "num_experts_per_tok": 2}),
    Family("GptOss", "experts", LOCAL_MOE | {"head_dim": 8}),
    Family("MiniMax", "experts", LOCAL_MOE | {"head_dim": 8}),
]


def build(family: Family) -> Any:
    """A model of the family, its weights larger than an initialisation, so that layers matter."""
    config = {"Gemma3": "Gemma3TextConfig"}.get(family.name, f"{family.name}Config")
    torch.manual_seed(0)
    kind = getattr(transformers, f"{family.name}{family.causal}")
    model = kind(getattr(transformers, config)(**SHAPE | family.changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                torch.nn.init.normal_(parameter, std=0.12)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model

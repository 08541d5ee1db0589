"""Small Hugging Face models on disk, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers
from torch.nn import functional

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
SENTENCE = "the neuron is weak and the token strong so its gate stays shut until a layer asks"


def family(name: str, **changes: Any) -> Any:
    """A randomly initialised model of a family: Llama, Mistral, Qwen2, Qwen3, Gemma ..."""
    config = getattr(transformers, f"{name}Config")(**SHAPE | {"head_dim": 8} | changes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than an initialisation, so that the layers matter.
            parameter.mul_(4) if parameter.dim() == 2 else parameter.add_(
                0.1 * torch.randn_like(parameter)
            )
    return model


def byte_tokenizer() -> tokenizers.Tokenizer:
    """Token ids are bytes; 256 is `</s>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.add_special_tokens(["</s>"])
    return inner


def save(model: Any, folder: Path) -> Path:
    """Save a model with its tokenizer."""
    model.save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def sentences(count: int, seed: int = 0) -> str:
    """Text of a few words, which a small model soon learns."""
    words = SENTENCE.split()
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(words), (count,), generator=generator).tolist()
    return " ".join(words[i] for i in picked)


def train(model: Any, text: str, steps: int, before: int | None = None) -> Any:
    """Train a model on a text, briefly; `before`: a token before each sequence."""
    ids = torch.tensor(byte_tokenizer().encode(text).ids)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        starts = torch.randint(len(ids) - 65, (16,), generator=generator)
        batch = torch.stack([ids[s : s + 65] for s in starts.tolist()])
        if before is not None:
            batch[:, 0] = before
        logits = model(input_ids=batch[:, :-1]).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()

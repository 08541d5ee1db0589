"""A model of a study as a folder that `transformers` loads without code of ours.

The architecture is Granite's, which has muP's factors in its configuration: `embedding_multiplier`
is `scale_emb`, `residual_multiplier` is `scale_depth / sqrt(layers)`, `logits_scaling` is the width
d_h / dim_model_base. No weight is changed; queries, keys and values, which are one product here,
become three.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, pre_tokenizers
from tokenizers import models as token_models
from torch import Tensor

from sparsing.actors.data.tokenizers import END_OF_DOCUMENT, ByteTokenizer, Tokenizer
from sparsing.actors.models.transformer import ModelConfig, Transformer

LAYER_NAMES = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.w_o.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn.w_gate.weight": "mlp.gate_proj.weight",
    "ffn.w_in.weight": "mlp.up_proj.weight",
    "ffn.w_out.weight": "mlp.down_proj.weight",
}
"""Of a layer's tensors, here and in `transformers`."""
QKV = "attention.w_qkv.weight"


def granite_config(config: ModelConfig, positions: int, end_of_document: int) -> Any:
    """The configuration of the same model in `transformers`.

    positions: the context that it was trained on.
    """
    from transformers import GraniteConfig

    return GraniteConfig(
        vocab_size=config.vocabulary_size,
        hidden_size=config.d_h,
        intermediate_size=config.d_f,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        hidden_act=config.activation,
        max_position_embeddings=positions,
        rms_norm_eps=config.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=True,
        attention_bias=False,
        mlp_bias=False,
        embedding_multiplier=config.scale_emb,
        residual_multiplier=config.residual_scale,
        attention_multiplier=(config.d_h // config.heads) ** -0.5,
        logits_scaling=config.width,
        bos_token_id=None,
        eos_token_id=end_of_document,
        pad_token_id=None,
    )


def granite_weights(model: Transformer) -> dict[str, Tensor]:
    """The model's tensors by their names in `transformers`."""
    found = {
        "model.embed_tokens.weight": model.embedding.weight,
        "lm_head.weight": model.embedding.weight,
        "model.norm.weight": model.norm.weight,
    }
    for number, layer in enumerate(model.layers):
        tensors = layer.state_dict()
        place = f"model.layers.{number}"
        parts = tensors[QKV].chunk(3)
        for name, part in zip("qkv", parts, strict=True):
            found[f"{place}.self_attn.{name}_proj.weight"] = part.contiguous()
        for ours, theirs in LAYER_NAMES.items():
            found[f"{place}.{theirs}"] = tensors[ours]
    return {name: tensor.detach() for name, tensor in found.items()}


def save_for_transformers(
    model: Transformer, tokenizer: Tokenizer, folder: Path, *, positions: int
) -> None:
    """Write config.json, model.safetensors and the tokenizer; `transformers` loads the folder."""
    import torch
    from transformers import GraniteForCausalLM

    config = granite_config(model.config, positions, tokenizer.end_of_document)
    with torch.device("meta"):
        theirs = GraniteForCausalLM(config)
    theirs.load_state_dict(granite_weights(model), assign=True, strict=True)
    theirs.tie_weights()
    theirs.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, positions)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, positions: int) -> None:
    """Write a tokenizer as `transformers` reads it: equal texts, equal ids."""
    from transformers import PreTrainedTokenizerFast

    if isinstance(tokenizer, ByteTokenizer):
        inner, end = byte_tokenizer(), END_OF_DOCUMENT
    else:
        inner, end = _inner_of(tokenizer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=end,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


def byte_tokenizer() -> tokenizers.Tokenizer:
    """The `tokenizers` library's like of `ByteTokenizer`: an id for each byte of UTF-8."""
    letters = _letters_of_bytes()
    inner = tokenizers.Tokenizer(
        token_models.BPE(vocab={letter: byte for byte, letter in enumerate(letters)}, merges=[])
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([END_OF_DOCUMENT])
    return inner


def _letters_of_bytes() -> list[str]:
    """The letter by which byte-level tokenizers write each byte, as GPT-2 fixed them."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in plain)
    letters = {byte: chr(byte) for byte in plain}
    letters |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def _inner_of(tokenizer: Tokenizer) -> tuple[tokenizers.Tokenizer, str]:
    about = json.loads(tokenizer.json)
    if about.get("kind") == "file":
        return tokenizers.Tokenizer.from_str(about["tokenizer"]), about["end_of_document"]
    return tokenizers.Tokenizer.from_str(tokenizer.json), END_OF_DOCUMENT

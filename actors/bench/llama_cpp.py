"""llama.cpp as a `Decoder`, by the same weights: what `sparsing bench decode` compares with.

Its Llama knows no ReLU. It computes SiLU, dense, which takes as long; the tokens differ.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsing.actors.bench.models import llama_weights
from sparsing.actors.models.transformer import Transformer

NEEDED = ("llama_cpp", "gguf")
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Parts of `transformers`' Llama under llama.cpp's names."""


def installed() -> bool:
    """Whether llama-cpp-python and gguf, which writes its files, are there."""
    return all(find_spec(name) for name in NEEDED)


class LlamaCppDecoder:
    """One thread, weights and past in float32."""

    def __init__(self, model: Transformer) -> None:
        from llama_cpp import Llama

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            _write(model, path)
            self._llama = Llama(
                str(path),
                n_ctx=256,
                n_threads=1,
                n_threads_batch=1,
                type_k=0,
                type_v=0,
                use_mmap=False,
                verbose=False,
            )

    def past(self, positions: int) -> Any:
        """There is one, which begins anew."""
        self._llama.reset()

    def next_logits(self, tokens: Tensor, past: Any) -> Tensor:
        """As in `Decoder`."""
        import llama_cpp

        self._llama.eval(tokens.tolist())
        logits = llama_cpp.llama_get_logits_ith(self._llama.ctx, -1)
        return torch.from_numpy(np.ctypeslib.as_array(logits, (self._llama.n_vocab(),)).copy())


def _write(model: Transformer, path: Path) -> None:
    """The weights as a file of llama.cpp's, without a tokenizer."""
    from gguf import GGUFWriter

    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(config.d_h)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.d_f)
    writer.add_head_count(config.heads)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_dimension_count(config.d_h // config.heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocabulary_size)
    writer.add_tokenizer_model("none")
    for name, weight in _named(llama_weights(model), config.heads).items():
        writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _named(weights: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    named = {}
    for name, weight in weights.items():
        part = name.removesuffix(".weight")
        prefix = ""
        if part.startswith("model.layers."):
            layer, part = part.removeprefix("model.layers.").split(".", 1)
            prefix = f"blk.{layer}."
        if NAMES[part] in ("attn_q", "attn_k"):
            weight = _interleaved(weight, heads)
        named[f"{prefix}{NAMES[part]}.weight"] = weight.contiguous()
    return named


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of a head reordered: there, neighbours turn together; here, a head's two halves."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)

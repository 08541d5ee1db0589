"""`sparsing bench decode`: greedy decoding, sparse against dense, as in the paper's Appendix L.

100 prompts of 5 tokens, each gone on from by `NEW_TOKENS`; tokens per second of one thread's
processor time, the prompt's included. The model has the layers of the paper's 2.4B model, 2 of its
40 and as much less vocabulary, so that a token reads 0.5 GB of weights; more layers would take
longer, at the same ratio. It is not trained: its weights are random, and each layer's ReLU is
shifted so far that on the prompts 93.5 % of the neurons are exactly 0, as they were in that model.
All FFN zeros are exact, and nothing is predicted: sparse and dense give the same tokens, or nothing
is reported. Attention and embedding are read whole, so that the FFN's share bounds the ratio.

Baselines: our dense decoding, `transformers` with the same weights and the same shifted ReLU, and
llama.cpp with the same weights and SiLU; what is not installed is left out, with a message.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsing.actors.bench import llama_cpp as bench_llama_cpp
from sparsing.actors.bench.models import llama_weights, make_llama
from sparsing.actors.models.generate import (
    Decoder,
    HuggingFaceDecoder,
    active_fraction,
    decoder_of,
    greedy,
    use_sparse,
)
from sparsing.actors.models.subject import Subject
from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.kernels.activity import StraightforwardRelu
from sparsing.study.bench.bench import Case, compare
from sparsing.study.errors import SparsingError

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 100, 5, 8
WEAK = 0.935
"""Sparsity of the paper's 2.4B ReLU model where its speed was measured."""
CALIBRATING = 20
"""Prompts that the shifts are found on."""
LAYERS = 2
CONFIG = ModelConfig(
    d_h=2304,
    layers=LAYERS,
    d_f=5760,
    heads=36,
    activation="relu",
    vocabulary_size=6144,
    # A plain LLaMA: no factor of muP differs from 1.
    scale_emb=1.0,
    scale_depth=LAYERS**0.5,
    dim_model_base=2304,
    # Large, so that branches outweigh the embedding and tokens do not only repeat.
    init_std=0.1,
)
CPU = torch.device("cpu")
LLAMA_CPP = "llama.cpp, SiLU"
"""The one baseline that cannot give the same tokens."""


class ShiftedRelu(nn.Module):
    """ReLU behind a shift: `max(gate - shift, 0)`."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, gate: Tensor) -> Tensor:
        """Elementwise."""
        return functional.relu(gate - self.shift)


class Side:
    """One way of decoding, timed over parts of the prompts in turn; keeps what it decoded."""

    def __init__(self, decoder: Decoder, prompts: list[list[int]], repeats: int) -> None:
        self.decoder = decoder
        size = -(-len(prompts) // repeats)
        parts = [prompts[at : at + size] for at in range(0, len(prompts), size)]
        # The first call is the warm-up; where repeats do not divide, the last parts come again.
        self.parts = iter([prompts[:1], *parts, *parts[: repeats - len(parts)]])
        self.tokens: list[list[int]] = []

    def __call__(self) -> float:
        """Tokens per second of the next part."""
        part = next(self.parts)
        started = time.process_time()
        found = [_decoded(self.decoder, prompt) for prompt in part]
        seconds = time.process_time() - started
        self.tokens += found
        return sum(map(len, found)) / seconds


def cases(repeats: int) -> list[Case]:
    """Sparse decoding against every dense one that is installed."""
    return cases_of(CONFIG, PROMPTS, repeats)


def cases_of(config: ModelConfig, count: int, repeats: int) -> list[Case]:
    """As `cases`, for a model and a number of prompts.

    Raises:
        SparsingError: sparse and dense decoding gave different tokens.
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shape = (count, PROMPT_TOKENS)
    prompts = torch.randint(config.vocabulary_size, shape, generator=generator)
    dense, sparse = models(config, prompts[:CALIBRATING])
    lists = prompts.tolist()
    active = _active(dense, lists[:CALIBRATING])
    what = f"sparse, {config.layers} layers of {config.d_h} x {config.d_f}, {active:.1%} active"
    found = []
    for name, decoder in _baselines(dense).items():
        ours, theirs = Side(decoder_of(sparse), lists, repeats), Side(decoder, lists, repeats)
        found.append(
            compare(
                what,
                ours,
                theirs,
                baseline_name=name,
                unit="tokens/s",
                better="higher",
                repeats=repeats,
            )
        )
        if ours.tokens != theirs.tokens and name != LLAMA_CPP:
            raise SparsingError(f"sparse decoding gave other tokens than {name}: not reported")
    return found


def models(config: ModelConfig, prompts: Tensor) -> tuple[Subject, Subject]:
    """The same model dense and sparse, its ReLUs shifted by what the prompts' gates are.

    All weights but W_out, which the sparse one has packed, are shared.
    """
    model = Transformer(config).initialize(0).requires_grad_(False)
    dense = Subject(model, model, config.vocabulary_size, CPU)
    for ffn in dense.ffns:
        # Layer by layer: a layer's shift changes what the next one gets.
        ffn.sigma = ShiftedRelu(_quantile(ffn.w_gate, model, prompts))
    with torch.device("meta"):
        twin = Transformer(config).requires_grad_(False)
    twin.load_state_dict(model.state_dict(), assign=True)
    sparse = Subject(twin, twin, config.vocabulary_size, CPU)
    for ffn, other in zip(sparse.ffns, dense.ffns, strict=True):
        ffn.sigma = other.sigma
    use_sparse(sparse, None)
    return dense, sparse


def _quantile(w_gate: nn.Linear, model: Transformer, prompts: Tensor) -> float:
    """The value that a share `WEAK` of a layer's gates is below."""
    gates: list[Tensor] = []
    hook = w_gate.register_forward_hook(lambda module, inputs, output: gates.append(output))
    model(prompts)
    hook.remove()
    return float(np.quantile(gates[0].numpy(), WEAK))


def _active(dense: Subject, prompts: list[list[int]]) -> float:
    """Share of active neurons while decoding."""
    only = [StraightforwardRelu()] * len(dense.ffns)
    decoder = decoder_of(dense)
    each = [active_fraction(dense, only, p, _decoded(decoder, p)) for p in prompts]
    return sum(each) / len(each)


def _decoded(decoder: Decoder, prompt: list[int]) -> list[int]:
    return greedy(decoder, prompt, NEW_TOKENS, CPU).tokens


def _baselines(dense: Subject) -> dict[str, Decoder]:
    found: dict[str, Decoder] = {"the same, dense": decoder_of(dense)}
    if find_spec("transformers"):
        found["transformers"] = HuggingFaceDecoder(_llama(dense))
    else:
        click.echo("transformers is not installed: not compared with", err=True)
    if bench_llama_cpp.installed():
        assert isinstance(dense.model, Transformer)
        found[LLAMA_CPP] = bench_llama_cpp.LlamaCppDecoder(dense.model)
    else:
        click.echo("llama-cpp-python and gguf are not installed: not compared with", err=True)
    return found


def _llama(dense: Subject) -> Any:
    """`transformers`' Llama with the same weights, which computes the same."""
    model = dense.model
    assert isinstance(model, Transformer)
    config = model.config
    llama = make_llama(config, rms_norm_eps=config.norm_epsilon, hidden_act="relu")
    llama.load_state_dict(llama_weights(model), strict=False)
    llama.tie_weights()
    for layer, ffn in zip(llama.model.layers, dense.ffns, strict=True):
        layer.mlp.act_fn = ffn.sigma
    return llama.eval()

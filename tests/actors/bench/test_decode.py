"""What `sparsing bench decode` measures is what it says: one model, as sparse as stated."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparsing.actors.bench import decode as bench_decode
from sparsing.actors.bench.decode import CONFIG, LLAMA_CPP, Side, cases_of, models
from sparsing.actors.bench.llama_cpp import LlamaCppDecoder, installed
from sparsing.actors.models.generate import decoder_of, greedy
from sparsing.actors.models.transformer import Transformer
from sparsing.study.errors import SparsingError

SMALL = replace(
    CONFIG, d_h=64, d_f=256, heads=4, vocabulary_size=300, dim_model_base=64, init_std=0.6
)


@pytest.fixture(autouse=True)
def _threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_sparse_and_transformers_decode_the_dense_tokens() -> None:
    found = cases_of(SMALL, 25, repeats=2)
    baselines = ["the same, dense", "transformers"]
    assert [case.baseline for case in found] == baselines + [LLAMA_CPP] * installed()
    share = float(found[0].case.split(", ")[-1].removesuffix("% active"))
    assert share == pytest.approx(6.5, abs=2)
    assert all(case.value > 0 and case.unit == "tokens/s" for case in found)


def test_tokens_change_so_that_other_neurons_are_active() -> None:
    prompts = torch.arange(50).view(10, 5)
    dense, _ = models(SMALL, prompts)
    found = [greedy(decoder_of(dense), p, 8, bench_decode.CPU).tokens for p in prompts.tolist()]
    assert sum(len(set(tokens)) for tokens in found) > 6 * len(found)


def test_every_prompt_is_decoded_once_and_once_more_to_warm_up() -> None:
    prompts = [[i] * 5 for i in range(7)]
    dense, _ = models(SMALL, torch.tensor(prompts))
    side = Side(decoder_of(dense), prompts, repeats=3)
    for _ in range(4):
        assert side() > 0
    assert len(side.tokens) == 8


def test_other_tokens_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(subject: object, rules: object) -> None:
        for ffn in subject.ffns:  # type: ignore[attr-defined]
            ffn.sigma = torch.nn.Tanh()

    monkeypatch.setattr(bench_decode, "use_sparse", broken)
    with pytest.raises(SparsingError, match="other tokens"):
        cases_of(SMALL, 5, repeats=1)


@pytest.mark.skipif(not installed(), reason="pip install llama-cpp-python gguf")
def test_llama_cpp_computes_the_same_model() -> None:
    model = Transformer(replace(SMALL, activation="silu")).initialize(0).requires_grad_(False)
    theirs = LlamaCppDecoder(model)
    for prompt in ([3, 1, 4, 1, 5], [9, 2, 6]):
        expected = greedy(model, prompt, 12, bench_decode.CPU).tokens
        assert greedy(theirs, prompt, 12, bench_decode.CPU).tokens == expected

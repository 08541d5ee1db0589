"""What decides between sparse and dense: a table, the same for every process."""

from __future__ import annotations

import pytest
import torch

from sparsing.kernels import crossover, ffn, ops
from sparsing.kernels.crossover import (
    Decoding,
    Tiling,
    decode_pays,
    may_pay,
    measured,
    sparse_pays,
    tiles_may_pay,
    tiles_pay,
)
from sparsing.kernels.ffn import GatedFFN

TABLES = [*(table for both in crossover.COMPILED.values() for table in both), crossover.GATHERED]
BIG = 2304 * 5760


def test_more_tokens_never_allow_more_active_neurons_in_float32() -> None:
    for table in TABLES:
        rows = table[torch.float32]
        assert [row.tokens for row in rows] == sorted({row.tokens for row in rows})
        assert [row.active for row in rows] == sorted((r.active for r in rows), reverse=True)


def test_what_was_not_measured_is_dense() -> None:
    assert not may_pay("cuda", torch.float32, 1, BIG)
    assert not may_pay("cpu", torch.float64, 1, BIG)
    assert not may_pay("cpu", torch.float32, 1, 64 * 160)
    assert not may_pay("cpu", torch.float32, 65, BIG)


def test_few_active_neurons_pay_and_many_do_not() -> None:
    assert sparse_pays("cpu", torch.float32, 1, BIG, 0.1)
    assert sparse_pays("cpu", torch.float32, 64, BIG, 0.04)
    assert not sparse_pays("cpu", torch.float32, 64, BIG, 0.5)


@pytest.mark.parametrize("shift", [-9.0, 9.0])
def test_both_sides_of_the_crossover_give_the_dense_result(
    shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 60 tokens: computed densely where all are active, sparsely where none is."""
    module = GatedFFN(512, 2048, "relu").requires_grad_(False)
    x = torch.rand(60, 512)
    module.w_gate.weight.abs_().mul_(shift)
    expected, taken = module(x), []
    dense = ops.dense_output
    monkeypatch.setattr(ops, "dense_output", lambda *a: (taken.append(a), dense(*a))[1])
    module.use_exact()
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-3)
    assert bool(taken) == (shift > 0)


def test_a_gpu_decodes_sparsely_where_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda:0")
    assert not decode_pays(gpu, torch.bfloat16, 1, BIG), "no GPU was measured yet"
    monkeypatch.setattr(crossover, "_gpu", lambda device: "a GPU")
    table = {"a GPU": Decoding(elements=2**23, tokens={torch.bfloat16: 2})}
    monkeypatch.setattr(crossover, "DECODING", table)
    assert decode_pays(gpu, torch.bfloat16, 2, BIG)
    assert not decode_pays(gpu, torch.bfloat16, 3, BIG)
    assert not decode_pays(gpu, torch.bfloat16, 1, 768 * 1920)
    assert not decode_pays(gpu, torch.float32, 1, BIG)
    assert not decode_pays(torch.device("cpu"), torch.bfloat16, 1, BIG)
    monkeypatch.setattr(crossover, "_gpu", lambda device: "another")
    assert not decode_pays(gpu, torch.bfloat16, 1, BIG)


def test_a_gpu_takes_tiles_where_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, bfloat16 = torch.device("cuda:0"), torch.bfloat16
    monkeypatch.setattr(crossover, "_gpu", lambda device: "a GPU")
    assert not measured(gpu), "no GPU was measured yet"
    assert not tiles_may_pay(gpu, bfloat16, 4096, BIG)
    assert not tiles_pay(gpu, bfloat16, 0.0)
    table = {"a GPU": Tiling(elements=2**23, tokens=512, listed={bfloat16: 0.2})}
    monkeypatch.setattr(crossover, "TILING", table)
    assert measured(gpu)
    assert tiles_may_pay(gpu, bfloat16, 512, BIG)
    assert not tiles_may_pay(gpu, bfloat16, 511, BIG)
    assert not tiles_may_pay(gpu, bfloat16, 512, 768 * 1920)
    assert not tiles_may_pay(gpu, torch.float32, 512, BIG)
    assert tiles_pay(gpu, bfloat16, 0.2)
    assert not tiles_pay(gpu, bfloat16, 0.21)
    assert not tiles_pay(gpu, torch.float32, 0.0)
    assert not tiles_pay(torch.device("cpu"), bfloat16, 0.0)


def test_a_device_without_a_table_is_named(caplog: pytest.LogCaptureFixture) -> None:
    ffn._say_dense.cache_clear()
    for _ in range(2):
        GatedFFN(4, 8, "relu").to("meta").use_exact()
    assert [r.getMessage() for r in caplog.records] == [
        "meta has no table in kernels/crossover.py: computing densely"
    ]

"""Walking tails: compiled, by torch, and neuron by neuron in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsing.kernels import crossing
from sparsing.kernels.cpu.build import compiled
from sparsing.kernels.crossing import walk


@pytest.fixture(params=["compiled", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    assert compiled() is not None, "the tests need a C++ compiler"
    if request.param == "torch":
        monkeypatch.setattr(crossing, "compiled", lambda: None)
    return request.param


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tokens=st.integers(1, 12),
    d_h=st.integers(1, 70),
    d_f=st.integers(1, 30),
    share=st.sampled_from([0.0, 0.2, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_rises_are_those_of_adding_one_by_one(
    way: str, tokens: int, d_h: int, d_f: int, share: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, columns = (torch.randn(n, m, generator=generator) for n, m in ((tokens, d_f), (d_f, d_h)))
    tails = torch.randn(tokens, d_h, generator=generator)
    sizes = z.abs() * columns.norm(dim=-1)
    token, neuron = (torch.rand(tokens, d_f, generator=generator) < share).nonzero(as_tuple=True)
    before = tails.clone()
    value = sizes[token, neuron]
    rises, order = walk(tails, token, neuron, value, z, columns)
    assert torch.equal(tails, before)
    assert rises.dtype == torch.float64
    assert sorted(order.tolist()) == list(range(len(token)))
    tail = tails.double()
    last = [0.0] * tokens
    for rise, step in zip(rises.tolist(), order.tolist(), strict=True):
        at, of = int(token[step]), int(neuron[step])
        assert float(value[step]) >= last[at], "smallest first"
        last[at] = float(value[step])
        norm = float(tail[at].norm())
        tail[at] += z[at, of].double() * columns[of].double()
        assert rise == pytest.approx(float(tail[at].norm()) - norm, abs=1e-5 * (1 + norm))


def test_threads_do_not_change_a_bit() -> None:
    torch.manual_seed(0)
    z, columns, tails = torch.randn(60, 40), torch.randn(40, 33), torch.randn(60, 33)
    token, neuron = (z > 0).nonzero(as_tuple=True)
    given = tails, token, neuron, z[token, neuron].abs(), z, columns
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(walk(*given)[0])
    torch.set_num_threads(before)
    assert torch.equal(*found)

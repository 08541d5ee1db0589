"""The sparse FFN, compiled and gathered, to the last element against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsing.kernels import ffn, ops
from sparsing.kernels.activations import ACTIVATIONS
from sparsing.kernels.activity import Cett, TopK, at_least, out_norms
from sparsing.kernels.cpu import ffn as cpu_ffn
from sparsing.kernels.ffn import GatedFFN
from sparsing.kernels.thresholds import NeuronThresholds

WAYS = ["compiled", "gathered"]
INFINITY = float("inf")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way of computing, also where the crossover would take the dense one."""
    monkeypatch.setattr(ops, "sparse_pays", lambda *_: True)
    monkeypatch.setattr(ops, "products_pay", lambda *_: True)
    monkeypatch.setattr(ffn, "may_pay", lambda *_: True)
    if request.param == "gathered":
        monkeypatch.setattr(cpu_ffn, "compiled", lambda: None)
    else:
        assert cpu_ffn.compiled() is not None, "the tests need a C++ compiler"
    return request.param


def reference(module: GatedFFN, x: Tensor, thresholds: Tensor | None = None) -> Tensor:
    """In float64, neuron by neuron as the paper writes it."""
    w_gate, w_in, w_out = (t.detach().double() for t in module._weights())
    gate = module.sigma(x.double() @ w_gate.T)
    z = gate * (x.double() @ w_in.T)
    if thresholds is not None:
        z = torch.where(at_least(z.abs(), thresholds), z, 0)
    return z @ w_out.T


def close(got: Tensor, expected: Tensor, relative: float = 1e-6) -> None:
    """Every element within `relative` of the largest."""
    scale = float(expected.abs().max().clamp(min=1e-30))
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=relative * scale)


def seeded(d_h: int, d_f: int, activation: str = "relu", seed: int = 0) -> GatedFFN:
    torch.manual_seed(seed)
    return GatedFFN(d_h, d_f, activation).requires_grad_(False)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("d_h", "d_f"), [(1, 1), (7, 13), (16, 4), (130, 257), (520, 100)])
@pytest.mark.parametrize("tokens", [1, 2, 5, 33])
def test_exact_is_the_dense_ffn(way: str, activation: str, d_h: int, d_f: int, tokens: int) -> None:
    module = seeded(d_h, d_f, activation)
    x = torch.randn(tokens, d_h)
    module.use_exact()
    close(module(x), reference(module, x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("thresholds", [None, torch.linspace(0, 0.2, 90)])
def test_decoding_operator_on_processors(
    way: str, activation: str, thresholds: Tensor | None
) -> None:
    module = seeded(40, 90, activation)
    module.pack()
    x = torch.randn(3, 40)
    y = ops.decode_output(x, *module._weights(), activation, thresholds)
    close(y, reference(module, x, thresholds))
    with pytest.raises(ValueError, match="known are relu, silu"):
        ops.decode_output(x, *module._weights(), "tanh")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tokens=st.integers(1, 20),
    d_h=st.integers(1, 150),
    d_f=st.integers(1, 150),
    active=st.sampled_from([0.0, 0.03, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_products_and_outputs_of_any_shape(
    way: str, tokens: int, d_h: int, d_f: int, active: float, seed: int
) -> None:
    torch.manual_seed(seed)
    x, w = torch.randn(tokens, d_h), torch.randn(d_f, d_h)
    neurons = torch.randperm(d_f)[: 1 + seed % d_f]
    gate = torch.randn(tokens, len(neurons)) * (torch.rand(tokens, len(neurons)) < active)
    rows = w.double()[neurons]
    z = ops.neuron_products(x, w, neurons, gate)
    expected = gate.double() * (x.double() @ rows.T)
    torch.testing.assert_close(z.double(), expected, rtol=1e-6, atol=2e-6 * d_h**0.5)
    assert bool((z[gate == 0] == 0).all())
    y = ops.neuron_outputs(z, w.T, neurons)
    torch.testing.assert_close(
        y.double(), z.double() @ rows, rtol=1e-6, atol=1e-5 * max(1.0, float(z.abs().max()))
    )
    torch.testing.assert_close(ops.neuron_outputs(z, w.T, neurons, every=True), y)


@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_no_neuron_active_and_all_active(way: str, gate: float) -> None:
    x, w_in, w_out = torch.randn(3, 40), torch.randn(50, 40), ops.packed(torch.randn(40, 50))
    y = ops.active_output(x, torch.full((3, 50), gate), w_in, w_out)
    close(y, (gate * x.double() @ w_in.double().T) @ w_out.double().T)


def test_empty_batch_and_empty_list(way: str) -> None:
    module = seeded(8, 12)
    module.use_exact()
    assert module(torch.randn(0, 3, 8)).shape == (0, 3, 8)
    assert module(torch.randn(2, 8), torch.zeros(0, dtype=torch.int64)).tolist() == [[0] * 8] * 2


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_thresholds_are_those_of_the_mask(way: str, activation: str) -> None:
    module = seeded(48, 100, activation)
    x = torch.randn(4, 9, 48)
    eps = float((module.intermediate(x).abs() * out_norms(module.w_out.weight)).quantile(0.8))
    module.rule = Cett(eps)
    expected = module(x)
    module.rule = None
    module.use_exact(Cett(eps))
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)
    module.use_dense()
    assert not torch.allclose(module(x), expected, atol=1e-3)


def test_a_tie_at_the_threshold_is_active(way: str) -> None:
    """`>=`: the neuron whose |z| is the threshold stays, the next float above it goes."""
    x, w = torch.ones(1, 16), torch.full((6, 16), 0.125)
    gate = torch.tensor([[0.75, -0.75, 0.75, 0.75, 0.0, 1.0]])
    above = torch.nextafter(torch.tensor(1.5), torch.tensor(2.0))
    thresholds = torch.tensor([1.5, 1.5, float(above), 0.0, 0.0, INFINITY])
    z = ops.neuron_products(x, w, None, gate, thresholds)
    assert z.tolist() == [[1.5, -1.5, 0.0, 1.5, 0.0, 0.0]]


def test_nan_and_infinity_are_seen(way: str) -> None:
    """An active neuron's NaN comes out; that of one left out does not; NaN is never >= anything."""
    x, w = torch.ones(2, 20), torch.ones(4, 20)
    w[1, 3], w[2, 7] = torch.nan, INFINITY
    gate = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, torch.nan]])
    z = ops.neuron_products(x, w, None, gate)
    expected = torch.tensor([[20, torch.nan, INFINITY, 0], [20, 0, 0, torch.nan]])
    torch.testing.assert_close(z, expected, equal_nan=True)
    kept = ops.neuron_products(x, w, None, gate, torch.zeros(4))
    torch.testing.assert_close(kept, torch.tensor([[20, 0, INFINITY, 0], [20, 0, 0, 0]]))
    y = ops.neuron_outputs(z, torch.ones(4, 9).T)
    assert y[0].isnan().all()
    assert y[1].isnan().all()
    assert ops.neuron_outputs(kept, torch.ones(4, 9).T).tolist() == [[INFINITY] * 9, [20.0] * 9]
    lost = torch.ones(4, 9)
    lost[1] = INFINITY
    assert ops.neuron_outputs(kept[1:], lost.T).tolist() == [[20.0] * 9]
    assert ops.neuron_outputs(kept[1:], lost.T, every=True).isnan().all()


def test_given_list_and_masks(way: str) -> None:
    module = seeded(24, 70)
    module.pack()
    x = torch.randn(2, 3, 24)
    mask = torch.rand(2, 3, 70) < 0.3
    w_gate, w_in, w_out = (t.double() for t in module._weights())
    z = (x.double() @ w_gate.T).relu() * (x.double() @ w_in.T)
    close(module(x, mask), (z * mask) @ w_out.T)
    close(module(x, mask[0, 0]), (z * mask[0, 0]) @ w_out.T)
    neurons = mask[0, 0].nonzero().squeeze(1).flip(0)
    close(module(x, neurons), (z * mask[0, 0]) @ w_out.T)


@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded"])
def test_strides_do_not_matter(way: str, layout: str) -> None:
    x = torch.randn(4, 6, 36)
    odd = {
        "transposed": x.transpose(0, 1),
        "sliced": torch.randn(4, 12, 72)[:, ::2, ::2],
        "expanded": x[:1, :1].expand(4, 6, 36),
    }[layout]
    module = seeded(36, 50)
    module.use_exact()
    assert torch.equal(module(odd), module(odd.contiguous()))


def test_bfloat16_has_the_masks_and_values_of_the_dense_way(way: str) -> None:
    module = seeded(64, 200, "silu").bfloat16()
    x = torch.randn(5, 64).bfloat16()
    eps = float((module.intermediate(x).abs() * out_norms(module.w_out.weight)).float().median())
    module.rule = Cett(eps)
    expected = module(x)
    module.rule = None
    module.use_exact(Cett(eps))
    torch.testing.assert_close(module(x), expected, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("active", [0.2, 1.0])
@pytest.mark.parametrize("every", [False, True])
def test_a_token_is_the_same_alone_in_a_batch_and_with_more_threads(
    active: float, every: bool
) -> None:
    x, w = torch.randn(9, 300), torch.randn(400, 300)
    gate = torch.randn(9, 400) * (torch.rand(9, 400) < active)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        z = ops.neuron_products(x, w, None, gate)
        results.append(ops.neuron_outputs(z, w.T, None, every))
        for token in range(9):
            one = ops.neuron_products(x[token : token + 1], w, None, gate[token : token + 1])
            assert torch.equal(one, z[token : token + 1])
            alone = ops.neuron_outputs(one, w.T, None, every)
            assert torch.equal(alone, results[0][token : token + 1])
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    if every:
        assert torch.equal(results[0], ops.neuron_outputs(z, w.T))


@pytest.mark.parametrize("thresholds", [None, torch.full((30,), 0.4)])
def test_gradients_are_those_of_the_masked_ffn(way: str, thresholds: Tensor | None) -> None:
    torch.manual_seed(0)
    module = GatedFFN(20, 30, "relu")
    x = torch.randn(2, 5, 20, requires_grad=True)
    target = torch.randn(2, 5, 20)
    tensors = [x, *module.parameters()]
    rule = None if thresholds is None else NeuronThresholds(thresholds)

    def gradients(run: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad((run() * target).sum(), tensors)

    module.rule = rule
    expected = gradients(lambda: module(x))
    module.rule = None
    module.use_exact(rule)
    for mine, theirs in zip(gradients(lambda: module(x)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    if thresholds is None:
        every = torch.arange(30).flip(0)
        for mine, theirs in zip(gradients(lambda: module(x, every)), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_operators_are_what_torch_expects() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(3, 8, requires_grad=True), torch.randn(12, 8, requires_grad=True)
    gate = torch.randn(3, 12).relu().requires_grad_()
    neurons, w_out = torch.tensor([3, 1, 7]), ops.packed(torch.randn(8, 12)).requires_grad_()
    thresholds = torch.full((12,), 0.2)
    torch.library.opcheck(ops.neuron_products, (x, w))
    torch.library.opcheck(ops.neuron_products, (x, w, neurons, gate[:, :3]))
    torch.library.opcheck(ops.neuron_products, (x, w, None, gate, thresholds))
    torch.library.opcheck(ops.neuron_outputs, (gate, w_out))
    torch.library.opcheck(ops.neuron_outputs, (gate, w_out, None, True))
    torch.library.opcheck(ops.neuron_outputs, (gate[:, :3], w_out, neurons))
    torch.library.opcheck(ops.active_output, (x, gate, w, w_out, thresholds))
    whole = [t.detach() for t in (x, w, w, w_out)]
    torch.library.opcheck(ops.decode_output, (*whole, "silu", thresholds))


@pytest.mark.parametrize("d_f", [40, 2**16])
def test_torch_compile_takes_the_module_whole(d_f: int) -> None:
    """Also where the crossover has something to decide."""
    module = seeded(16, d_f)
    x = torch.randn(2, 16)
    expected = module(x)
    module.use_exact()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compiled(x[:1]), expected[:1], rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused_at_the_door() -> None:
    x, w = torch.randn(3, 8), torch.randn(12, 8)
    with pytest.raises(TypeError, match="both must be float32"):
        ops.neuron_products(x.half(), w.half())
    with pytest.raises(TypeError, match=r"float32 with weights of torch\.bfloat16"):
        ops.neuron_products(x, w.bfloat16())
    with pytest.raises(ValueError, match="contiguous"):
        ops.neuron_products(x, torch.randn(8, 12).T)
    with pytest.raises(ValueError, match="from 0 to 11"):
        ops.neuron_products(x, w, torch.tensor([12]))
    with pytest.raises(ValueError, match="gate must be"):
        ops.neuron_products(x, w, None, torch.ones(3, 11))
    with pytest.raises(ValueError, match="do not fit"):
        ops.neuron_products(torch.randn(3, 9), w)
    with pytest.raises(ValueError, match="pack it once"):
        ops.neuron_outputs(torch.randn(3, 12), torch.randn(8, 12))
    module = seeded(8, 12)
    with pytest.raises(ValueError, match="no thresholds of neurons"):
        module.use_exact(TopK(3))
    with pytest.raises(ValueError, match="pack it once"):
        module(x, torch.tensor([1]))
    module.use_exact()
    module.rule = TopK(3)
    with pytest.raises(ValueError, match="use_dense"):
        module(x)

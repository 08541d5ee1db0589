"""The decode kernels in Triton's interpreter; `test_triton` runs this in a process."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsing.kernels import ffn, ops
from sparsing.kernels.activations import ACTIVATIONS
from sparsing.kernels.activity import at_least
from sparsing.kernels.ffn import GatedFFN
from sparsing.kernels.gpu import decode as triton_decode
from sparsing.kernels.gpu.decode import Workspace, decode
from sparsing.kernels.ops import packed
from sparsing.kernels.thresholds import NeuronThresholds

SHAPES = [(1, 1), (7, 13), (64, 32), (300, 50)]
Weights = tuple[Tensor, Tensor, Tensor]


def weights(d_h: int, d_f: int, seed: int = 0) -> Weights:
    torch.manual_seed(seed)
    scale = d_h**-0.5
    w_out = packed(torch.randn(d_h, d_f) * d_f**-0.5)
    return torch.randn(d_f, d_h) * scale, torch.randn(d_f, d_h) * scale, w_out


def reference(x: Tensor, w: Weights, activation: str, thresholds: Tensor | None = None) -> Tensor:
    w_gate, w_in, w_out = (t.double() for t in w)
    z = ACTIVATIONS[activation](x.double() @ w_gate.T) * (x.double() @ w_in.T)
    if thresholds is not None:
        z = torch.where(at_least(z.abs(), thresholds), z, 0)
    return z @ w_out.T


def poisoned(x: Tensor, d_f: int) -> Workspace:
    """Nothing that was there before may come out: NaN, and neurons that do not exist."""
    work = Workspace.like(x, d_f)
    for tensor in vars(work).values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else 2**30)
    return work


def close(got: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max().clamp(min=1e-30))
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize(
    ("activation", "d_h", "d_f", "tokens"),
    [
        *[("relu", d_h, d_f, 2) for d_h, d_f in SHAPES],
        *[(activation, 40, 19, 1) for activation in triton_decode.ACTIVATIONS],
    ],
)
def test_is_the_dense_ffn(activation: str, d_h: int, d_f: int, tokens: int) -> None:
    w = weights(d_h, d_f)
    x = torch.randn(tokens, d_h)
    close(decode(x, *w, activation, work=poisoned(x, d_f)), reference(x, w, activation))


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_thresholds(activation: str) -> None:
    w = weights(96, 45)
    x, thresholds = torch.randn(2, 96), torch.rand(45)
    y = decode(x, *w, activation, thresholds, work=poisoned(x, 45))
    close(y, reference(x, w, activation, thresholds))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Tokens that came to the kernels from a module, which takes them wherever it may."""
    came: list[Tensor] = []
    inner = triton_decode.decode

    def decode(x: Tensor, *rest: object) -> Tensor:
        came.append(x)
        return inner(x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ffn, "decode_pays", lambda *_: True)
    monkeypatch.setattr(triton_decode, "decode", decode)
    return came


@pytest.mark.parametrize("activation", triton_decode.ACTIVATIONS)
@pytest.mark.parametrize("with_thresholds", [False, True])
def test_a_module_takes_them(taken: list[Tensor], activation: str, with_thresholds: bool) -> None:
    """Any leading shape and strides, as a model calls it."""
    torch.manual_seed(0)
    module = GatedFFN(40, 19, activation).requires_grad_(False)
    thresholds = torch.rand(19) * 0.1 if with_thresholds else None
    module.use_exact(None if thresholds is None else NeuronThresholds(thresholds))
    x = torch.randn(2, 40, 2).transpose(1, 2)
    expected = reference(x.reshape(-1, 40), module._weights(), activation, thresholds)
    close(module(x).reshape(-1, 40), expected)
    assert [t.shape for t in taken] == [(4, 40)]


def test_a_module_that_trains_or_has_a_function_of_its_own_does_not(taken: list[Tensor]) -> None:
    module = GatedFFN(8, 12, "relu")
    module.use_exact()
    module(torch.randn(2, 8)).sum().backward()
    assert module.w_gate.weight.grad is not None
    module.requires_grad_(False).sigma = lambda gate: (gate - 0.1).relu()
    module.use_exact()
    module(torch.randn(2, 8))
    assert not taken


def test_torch_compile_takes_a_module_whole(taken: list[Tensor]) -> None:
    module = GatedFFN(16, 21, "silu").requires_grad_(False)
    x = torch.randn(2, 16)
    expected = reference(x, module._weights(), "silu")
    module.use_exact()
    close(torch.compile(module, backend="aot_eager", fullgraph=True)(x), expected)
    assert taken


def test_the_operator_is_what_torch_expects() -> None:
    torch.library.opcheck(ops.decode_output, (torch.randn(2, 16), *weights(16, 21), "relu"))


@pytest.mark.parametrize("sign", [0.0, -1.0, 1.0])
def test_no_neuron_active_and_all_active(sign: float) -> None:
    w_gate, w_in, w_out = weights(40, 35)
    w = (w_gate.abs() * sign, w_in, w_out)
    x = torch.rand(2, 40) + 0.1
    y = decode(x, *w, "relu", work=poisoned(x, 35))
    close(y, reference(x, w, "relu"))
    assert bool((y != 0).any()) == (sign > 0)


@pytest.mark.parametrize("neuron", [0, 16, 34])
def test_one_neuron_active(neuron: int) -> None:
    w_gate, w_in, w_out = weights(40, 35)
    w_gate = -w_gate.abs()
    w_gate[neuron] *= -1
    x = torch.rand(2, 40)
    w = (w_gate, w_in, w_out)
    close(decode(x, *w, "relu", work=poisoned(x, 35)), reference(x, w, "relu"))


def test_a_tie_at_the_threshold_is_active() -> None:
    w = (torch.full((3, 8), 0.125), torch.full((3, 8), 0.125), packed(torch.eye(8, 3)))
    above = float(torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)))
    thresholds = torch.tensor([1.0, above, 0.0])
    assert decode(torch.ones(1, 8), *w, "relu", thresholds)[0, :3].tolist() == [1, 0, 1]


def test_nan_and_infinity() -> None:
    """An active neuron's NaN comes out; a weak one's weights, even NaN, are not read."""
    w_gate, w_in, w_out = weights(40, 35)
    w_gate[3], w_in[3], w_out[:, 3] = -1.0, torch.nan, torch.inf
    x = torch.rand(2, 40)
    assert decode(x, w_gate, w_in, w_out, "relu").isfinite().all()
    w_gate[3] = 1.0
    assert not decode(x, w_gate, w_in, w_out, "relu").isfinite().any()
    w_gate[3] = torch.nan
    assert decode(x, w_gate, w_in, w_out, "relu").isnan().all()
    assert decode(x, w_gate, w_in, w_out, "relu", torch.zeros(35)).isfinite().all()
    x[0, 0] = torch.inf
    assert not decode(x, w_gate, w_in, w_out, "relu")[0].isfinite().any()


def test_tokens_do_not_see_each_other() -> None:
    w = weights(64, 50)
    x = torch.randn(3, 64)
    y = decode(x, *w, "relu")
    for token in range(3):
        assert torch.equal(decode(x[token : token + 1], *w, "relu"), y[token : token + 1])


def test_refused_at_the_door() -> None:
    w_gate, w_in, w_out = weights(8, 12)
    x = torch.randn(2, 8)
    with pytest.raises(ValueError, match="packed"):
        decode(x, w_gate, w_in, w_out.contiguous(), "relu")
    with pytest.raises(ValueError, match="the kernels know"):
        decode(x, w_gate, w_in, w_out, "tanh")
    with pytest.raises(TypeError, match="one dtype"):
        decode(x.half(), w_gate, w_in, w_out, "relu")
    with pytest.raises(ValueError, match="do not fit"):
        decode(x[:, :5], w_gate, w_in, w_out, "relu")
    assert decode(x[:0], w_gate, w_in, w_out, "relu").shape == (0, 8)

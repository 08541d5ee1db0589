"""Model folders of many families: losses and every layer's ratio as plain hooks find them.

The table in docs/models.md is of these families; `SPARSING_WRITE_DOCS=1` writes it anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, SHAPE, Family, build
from foreign_models import byte_tokenizer
from torch import nn
from torch.nn import functional

from sparsing.actors.measuring.measure import measure_rules
from sparsing.actors.measuring.search import Probe
from sparsing.actors.models.hugging_face import load_foreign
from sparsing.actors.models.sequences import Sequences
from sparsing.kernels.activity import Cett

DOCS = Path(__file__).parents[3] / "docs" / "models.md"
CPU = torch.device("cpu")
EVERY_RUN = {"Llama relu", "Phi3", "OPT", "GPT2", "BitNet relu2", "Mixtral", "GptOss"}
"""One of each form; the others are slow together."""
DOWN = ("down_proj", "fc2", "c_proj", "dense_4h_to_h", "fc_out")
"""What output layers of FFNs are called, beside attention's."""


def sequences(seed: int, count: int = 6) -> Sequences:
    tokens = np.random.default_rng(seed).integers(0, 257, (count, 33))
    zeros = np.zeros(count, dtype=np.int64)
    return Sequences(tokens=tokens, domain=zeros, domains=("text",), shares=np.ones(1))


class Plain:
    """Counts and masks by hooks written for the test, on the model as `transformers` has it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.thresholds: list[float] | None = None
        self.shares: dict[int, float] = {}

    def visit(self, index: int, z: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
        """Count what contributes; z with 0 for what does not reach its threshold."""
        if self.thresholds is None:
            return z
        sizes = z.abs() * w_out.norm(dim=0)
        z = torch.where(sizes >= self.thresholds[index], z, 0)
        self.shares[index] = float((z != 0).double().mean())
        return z

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """With hooks on all output layers, in order."""
        undo: list[Callable[[], None]] = []
        index = 0
        for name, module in self.model.named_modules():
            if isinstance(getattr(module, "down_proj", None), nn.Parameter):
                own = module.forward
                module.forward = lambda *given, m=module, i=index: self.experts(m, i, *given)
                undo.append(lambda m=module, own=own: setattr(m, "forward", own))
            elif name.endswith(DOWN) and "attn" not in name and "attention" not in name:

                def hook(m, given, i=index):
                    weight = m.weight if isinstance(m, nn.Linear) else m.weight.T
                    return (self.visit(i, given[0], weight),)

                undo.append(module.register_forward_pre_hook(hook).remove)
            else:
                continue
            index += 1
        try:
            yield
        finally:
            for each in undo:
                each()

    def experts(self, m: Any, index: int, hidden, chosen, weights) -> torch.Tensor:
        """Token by token; all experts' neurons as one FFN."""
        swapped = m.down_proj.shape[-1] == SHAPE["hidden_size"]
        down = m.down_proj.transpose(1, 2) if swapped else m.down_proj
        count, d_h, d_f = down.shape
        z = torch.zeros(len(hidden), count, d_f)
        bias = torch.zeros_like(hidden)
        for token in range(len(hidden)):
            for expert, weight in zip(chosen[token], weights[token], strict=True):
                up = m.gate_up_proj[expert].T if swapped else m.gate_up_proj[expert]
                both = up @ hidden[token]
                if hasattr(m, "gate_up_proj_bias"):
                    both = both + m.gate_up_proj_bias[expert]
                    bias[token] += weight * m.down_proj_bias[expert]
                if hasattr(m, "alpha"):
                    made = m._apply_gate(both)
                else:
                    made = m.act_fn(both[:d_f]) * both[d_f:]
                z[token, expert] = weight * made
        w_out = down.permute(1, 0, 2).reshape(d_h, count * d_f)
        return self.visit(index, z.flatten(1), w_out) @ w_out.T + bias

    @torch.no_grad()
    def loss(self, text: Sequences, thresholds: list[float] | None) -> float:
        """Mean loss of whole sequences, all in one forward."""
        self.thresholds, self.shares = thresholds, {}
        tokens = torch.from_numpy(text.tokens)
        with self.hooked():
            logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
        return float(functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


def parameters() -> list[Any]:
    marks = {True: (), False: (pytest.mark.slow,)}
    return [
        pytest.param(each, id=f"{each.label} {i}", marks=marks[each.label in EVERY_RUN])
        for i, each in enumerate(FAMILIES)
    ]


@pytest.mark.parametrize("family", parameters())
def test_losses_and_ratios_are_those_of_plain_hooks(family: Family, tmp_path: Path) -> None:
    model = build(family)
    model.save_pretrained(tmp_path)
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    subject = load_foreign(tmp_path, CPU).subject
    assert len(subject.ffns) == family.ffns
    choose, report = sequences(1), sequences(2)
    thresholds = Probe(subject, choose).thresholds(0.3)
    found = measure_rules(subject, report, [Cett(eps) for eps in thresholds], "cett").mixture
    plain = Plain(model)
    assert found.dense_loss == pytest.approx(plain.loss(report, None), rel=1e-5)
    assert found.sparse_loss == pytest.approx(plain.loss(report, thresholds), rel=1e-4)
    ratios = [plain.shares[index] for index in range(family.ffns)]
    assert found.activation_ratios == pytest.approx(ratios, rel=1e-3, abs=1e-5)
    assert all(0 < ratio < 1 for ratio in found.activation_ratios)
    assert found.sparse_loss != pytest.approx(found.dense_loss, rel=1e-6)


def test_there_are_enough_families() -> None:
    assert len(FAMILIES) >= 30
    assert len({each.name for each in FAMILIES}) >= 24


def test_the_table_in_the_docs_is_of_these_families() -> None:
    rows = [f"| {each.label} | {each.form} | {each.ffns // 3} |" for each in FAMILIES]
    rows = list(dict.fromkeys(rows))
    text = DOCS.read_text()
    before, _, after = text.partition("<!-- families -->\n")
    middle, _, rest = after.partition("<!-- end -->")
    head = "| family | FFN | in a layer |\n|---|---|---|\n"
    wanted = head + "\n".join(rows) + "\n"
    if os.environ.get("SPARSING_WRITE_DOCS"):
        DOCS.write_text(f"{before}<!-- families -->\n{wanted}<!-- end -->{rest}")
        return
    assert middle == wanted

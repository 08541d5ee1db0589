from __future__ import annotations

import json

import numpy as np
import pytest
from advice_stores import advised_store
from click.testing import CliRunner

from sparsing.analysis.commands.laws import laws
from sparsing.analysis.forecasting.seeds import pool_seeds
from sparsing.analysis.laws.published import PUBLISHED
from sparsing.analysis.laws.sparsity import PAPER_LAWS

TRUTH = PUBLISHED["0.4b_silu"]


def seeded(tmp_path, offsets: list[float]):
    """A store of one model whose seeds' limits differ by these offsets."""
    axes = {"activation": ["silu"], "scale": ["0.4B"], "seed": list(range(len(offsets)))}
    return advised_store(
        tmp_path,
        lambda run: lambda at: PAPER_LAWS["silu"].value(at, **TRUTH) + offsets[run.seed],
        count=30,
        axes=axes,
    )


def test_seeds_are_pooled_with_their_scatter(tmp_path) -> None:
    offsets = [-0.006, 0.0, 0.006, 0.002]
    (pooled,) = pool_seeds(seeded(tmp_path, offsets))
    assert (pooled.seeds, pooled.known) == (4, 4)
    assert pooled.scatter == pytest.approx(np.std(offsets, ddof=1), rel=0.4)
    assert pooled.low < TRUTH["A0"] + np.mean(offsets) < pooled.high
    assert (pooled.high - pooled.low) / 2 > pooled.scatter  # 3.2 of it, over 2


def test_one_seed_is_not_pooled_and_the_command_says_so(tmp_path) -> None:
    store = seeded(tmp_path, [0.0])
    assert pool_seeds(store) == []
    asked = ["advised", "--pool", "seeds", "--store", str(tmp_path)]
    assert "no model has two" in CliRunner().invoke(laws, asked).stdout
    assert json.loads(CliRunner().invoke(laws, [*asked, "--json"]).stdout)["pooled"] == []

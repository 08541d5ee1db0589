from __future__ import annotations

from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from sparsing.analysis.refitting.newest import Curve
from sparsing.analysis.service.live import thinned


@given(st.lists(st.integers(0, 10**12), min_size=1, unique=True), st.integers(2, 40))
def test_a_thinned_curve_has_both_ends_and_is_a_part(tokens, most) -> None:
    tokens = sorted(tokens)
    curve = Curve(
        run="a",
        stage="final",
        attempt=1,
        step=1,
        tokens=tokens,
        activation_ratio=[at / 10**12 for at in tokens],
        half_width=[None] * len(tokens),
        measured_at=datetime(2030, 1, 1),
    )
    drawn = thinned(curve, most)["tokens"]
    assert {tokens[0], tokens[-1]} <= set(drawn)
    assert drawn == sorted(set(drawn) & set(tokens))
    assert len(drawn) <= most or len(tokens) <= most

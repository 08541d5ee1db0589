from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_curves import Written, written

from sparsing.analysis.curves.errors import CurveFileError
from sparsing.analysis.curves.files import read_curves

ANY = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None}


def read_right(file: Written) -> bool:
    """Whether every series is read as written; False for a refusal that names the columns."""
    try:
        curves = read_curves(str(file.path))
    except CurveFileError as refusal:
        refused = refusal
    else:
        refused = None
    if refused is not None:
        assert refused.columns, (file.what, str(refused))
        assert refused.code
        return False
    assert len(curves) == len(file.curves), (file.what, [str(c.source) for c in curves])
    for curve in curves:
        label = next(iter(curve.source.series.values()), None)
        tokens, ratios = file.curves[label] if len(curves) > 1 else next(iter(file.curves.values()))
        said = file.what, str(curve.source)
        assert len(curve.tokens) == len(tokens), said
        np.testing.assert_allclose(curve.tokens, tokens, rtol=1e-6, err_msg=str(said))
        np.testing.assert_allclose(curve.activation_ratio, ratios, atol=2e-6, err_msg=str(said))
    return True


@settings(max_examples=150, **ANY)
@given(data=st.data())
def test_files_are_read_right_or_refused(data, tmp_path) -> None:
    read_right(data.draw(written(tmp_path)))


@pytest.mark.slow
@settings(max_examples=2000, **ANY)
@given(data=st.data())
def test_two_thousand_files_are_read_right_or_refused(data, tmp_path) -> None:
    read_right(data.draw(written(tmp_path)))

from __future__ import annotations

import pytest
from curves import any_curve

from sparsing.analysis.laws.published import MEASURED, law_of


@pytest.fixture(params=MEASURED)
def curve(request: pytest.FixtureRequest):
    """(law, tokens, ratios) of each of the published curves; synthetic ones if not at hand."""
    return law_of(request.param), *any_curve(request.param)

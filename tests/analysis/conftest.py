from __future__ import annotations

import pytest
from curves import measured_folder

from analysis.paper import MEASURED, law_of, published_curve


@pytest.fixture(params=MEASURED)
def curve(request: pytest.FixtureRequest):
    """(law, tokens, ratios) of each of the published curves; synthetic ones if not at hand."""
    return law_of(request.param), *published_curve(request.param, measured_folder())

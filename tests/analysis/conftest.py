"""Curves for the tests: measured ones where they are at hand, else made from Table 2."""

from __future__ import annotations

import json

import numpy as np
import pytest
from curves import TABLE_2, measured_folder, synthetic


@pytest.fixture(params=sorted(TABLE_2))
def curve(request: pytest.FixtureRequest):
    """(law, tokens, ratios) of each of the six published curves."""
    law = TABLE_2[request.param][0]
    folder = measured_folder()
    if folder is None:
        return law, *synthetic(request.param)
    data = json.loads((folder / f"{request.param}.json").read_text())
    return law, np.array(data["token_passed"]), np.array(data["activation_ratio"])

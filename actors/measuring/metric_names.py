"""The metrics by name, each with its parameter, and how much text is measured by default.

Apart from what computes them, so that the command line can list them without torch.
"""

from __future__ import annotations

from sparsing import registry

PARAMETERS = {name: entry.parameter for name, entry in registry.METRICS.items()}
"""Each metric's parameter."""
METRICS = tuple(PARAMETERS)
DEFAULT_P_PERCENT = 1.0
"""Rise of perplexity of `cett_ppl` where none is given: CETT-PPL-1%."""
DEFAULT_TOKENS = 65_536
"""Tokens to choose and to report on, unless another number or a precision is asked for."""

"""What docs/kernels.md shows can be run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


@pytest.mark.filterwarnings("error")
def test_its_examples_run() -> None:
    text = (Path(__file__).parents[2] / "docs/kernels.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "docs/kernels.md", "exec"), {})

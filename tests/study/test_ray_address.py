"""Which cluster an address means."""

from __future__ import annotations

import os

import pytest

from sparsing.study.errors import DefinitionError
from sparsing.study.ray_address import OVERRIDES, address_alone, check_dashboard


@pytest.mark.parametrize(
    "address", ["http://head:8265", "https://ray.example.com", "http://[::1]:8265", "HTTP://h/"]
)
def test_a_dashboard_is_taken_as_it_is(address: str) -> None:
    assert check_dashboard(address) == address


@pytest.mark.parametrize(
    ("address", "instead"),
    [
        ("head:8265", "http://head:8265"),
        ("10.0.0.1", "http://10.0.0.1:8265"),
        ("10.0.0.1:6379", "http://10.0.0.1:8265"),
        ("ray://head:10001", "http://head:8265"),
        ("auto", "http://127.0.0.1:8265"),
        ("http://head:port", "http://head:8265"),
        ("http://", "--address http://:"),
        ("", "--address :"),
    ],
)
def test_what_is_no_dashboard_is_refused_with_what_to_write(address: str, instead: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        check_dashboard(address)
    assert instead in str(refused.value)


def test_variables_are_masked_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OVERRIDES:
        monkeypatch.setenv(name, "elsewhere")
    with address_alone() as masked:
        assert masked == dict.fromkeys(OVERRIDES, "elsewhere")
        assert not set(OVERRIDES) & set(os.environ)
    assert all(os.environ[name] == "elsewhere" for name in OVERRIDES)

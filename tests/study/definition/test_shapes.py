"""Shapes: the paper's Table 3, the solver, batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raising import raises

from sparsing.study.definition.model import Shape
from sparsing.study.definition.shapes import (
    NAMED_SCALES,
    default_batch_sequences,
    default_heads,
    model_shape,
    nonembedding_parameters,
    shape_label,
    solve_shape,
)
from sparsing.study.errors import DefinitionError

TABLE_3 = {  # the paper's: non-embedding parameters, batch tokens
    "0.1B": (1.08e8, 3.27e5),
    "0.2B": (2.41e8, 5.90e5),
    "0.4B": (4.52e8, 7.86e5),
    "0.8B": (7.60e8, 1.18e6),
    "1.2B": (1.18e9, 1.57e6),
    "2.4B": (2.44e9, 2.10e6),
}


@pytest.mark.parametrize("scale", TABLE_3)
def test_named_scales_meet_table_3(scale):
    parameters, batch_tokens = TABLE_3[scale]
    shape = model_shape(scale)
    assert shape.parameters == pytest.approx(parameters, rel=0.01)
    assert shape.d_f == 2.5 * shape.d_h
    assert shape.d_h == 64 * shape.heads
    assert 48 <= shape.width_depth_ratio <= 58
    sequences = default_batch_sequences(scale, shape.parameters, 4096)
    assert sequences * 4096 == pytest.approx(batch_tokens, rel=0.005)
    assert sequences % 16 == 0


def test_parameters_are_those_of_the_matrices():
    d_h, layers, d_f = 6, 2, 15
    layer = 4 * 6 * 6 + 2 * 15 * 6 + 6 * 15 + 6 + 6
    assert nonembedding_parameters(d_h, layers, d_f) == 2 * layer + 6


@pytest.mark.parametrize("scale", ["1M", "3M", "27M", "500M", "7B", "70B"])
def test_other_counts_are_met_within_1_percent(scale):
    wanted = float(scale[:-1]) * {"M": 1e6, "B": 1e9}[scale[-1]]
    shape = model_shape(scale)
    assert shape.parameters == pytest.approx(wanted, rel=0.01)
    assert shape.width_depth_ratio == pytest.approx(52, rel=0.2)


@pytest.mark.parametrize("ratio", [6, 14.2, 27.8, 48, 74, 113.8, 209, 273, 384])
def test_ratios_at_a_named_scale(ratio):
    shape = model_shape("0.1B", ratio)
    assert shape.parameters == pytest.approx(1.08e8, rel=0.01)
    assert shape.width_depth_ratio == pytest.approx(ratio, rel=0.02)


@given(st.floats(1e5, 1e10), st.none() | st.floats(5, 300))
def test_solver_keeps_its_promises_or_says_why_not(parameters, ratio):
    try:
        shape = solve_shape(parameters, ratio)
    except DefinitionError as error:
        assert "parameters within 1 %" in str(error)  # noqa: PT017 - both outcomes are right
        return
    assert abs(shape.parameters / parameters - 1) <= 0.01
    assert shape.d_h % (2 * shape.heads) == 0
    if ratio:
        assert 1 / 1.1 <= shape.width_depth_ratio / ratio <= 1.1


def test_impossible_ratios_are_refused():
    with raises(DefinitionError, "no_shape"):
        model_shape("47K", 52.0)
    with raises(DefinitionError, "no_shape"):
        model_shape("0M")


@given(st.integers(1, 3000).map(lambda half: 2 * half))
def test_default_heads_are_even_and_divide(d_h):
    size = d_h // default_heads(d_h)
    assert d_h % size == 0
    assert size % 2 == 0


def test_heads_near_64_and_odd_widths():
    assert [default_heads(d_h) for d_h in (32, 64, 128, 768, 34)] == [1, 1, 2, 12, 1]
    with raises(DefinitionError, "odd_width", d_h=33):
        default_heads(33)
    with raises(DefinitionError, "wrong_heads", d_h=32, heads=3):
        model_shape(Shape(d_h=32, layers=1, heads=3))
    with raises(DefinitionError, "wrong_heads", heads=32):
        model_shape(Shape(d_h=32, layers=1, heads=32))  # heads of size 1


def test_explicit_shape_and_its_label():
    shape = model_shape(Shape(d_h=32, layers=4, d_f=80, heads=2))
    assert (shape.d_h, shape.layers, shape.d_f, shape.heads) == (32, 4, 80, 2)
    assert shape.parameters == 47_392
    assert shape_label(Shape(d_h=32, layers=4, d_f=80, heads=2)) == "d32x4"
    assert shape_label(Shape(d_h=32, layers=4, d_f=64)) == "d32x4f64"


@given(st.integers(10_000, 10**11), st.integers(8, 8192))
def test_batches_grow_with_the_model_and_suit_shards(parameters, sequence_tokens):
    small = default_batch_sequences("x", parameters, sequence_tokens)
    large = default_batch_sequences("x", 4 * parameters, sequence_tokens)
    assert 1 <= small <= large
    granule = small & -small  # the largest power of two that divides
    assert granule * 16 >= small


def test_batches_between_the_rows_of_table_3():
    between = default_batch_sequences("x", 330_000_000, 4096)
    assert NAMED_SCALES["0.2B"].batch_tokens < between * 4096 < NAMED_SCALES["0.4B"].batch_tokens

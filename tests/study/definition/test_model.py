"""The definition model: counts as people write them, the paper's defaults, ids."""

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sparsing.study.definition.data import Data, Source
from sparsing.study.definition.model import Axes, RunPoint, Shape, Study
from sparsing.study.definition.values import MAX_COUNT, parse_count

DATA = Data(domains={"code": Source(kind="python-stdlib")})


def study(**changes) -> Study:
    return Study(
        **{"name": "x", "axes": Axes(scale=["0.1B"]), "tokens": 10**9, "data": DATA} | changes
    )


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("27M", 27_000_000),
        ("1.5B", 1_500_000_000),
        ("8e11", 8 * 10**11),
        ("8.2M", 8_200_000),  # 8.2 * 1e6 is 8199999.999999999 in floats
        ("1_000", 1000),
        (" 4096 ", 4096),
        (2.0, 2),
        (7, 7),
    ],
)
def test_counts_as_people_write_them(written, count):
    assert parse_count(written) == count
    assert type(parse_count(written)) is int


@pytest.mark.parametrize(
    "other", ["1.5", "M", "1e400", "-3", "", None, True, 1.5, float("nan"), []]
)
def test_what_is_no_count_passes_unchanged(other):
    assert parse_count(other) is other


@given(st.integers(0, MAX_COUNT // 10**6), st.sampled_from(["", "K", "M"]))
def test_every_count_with_a_unit_is_exact(number, unit):
    assert parse_count(f"{number}{unit}") == number * {"": 1, "K": 10**3, "M": 10**6}[unit]


def test_defaults_are_the_papers():
    optimization, mup = study().optimization, study().mup
    assert (optimization.peak_learning_rate, optimization.betas) == (0.01, (0.9, 0.95))
    assert (optimization.weight_decay, study().measurement.p_percent) == (0.1, 1.0)
    assert (mup.scale_emb, mup.scale_depth, mup.dim_model_base, mup.init_std) == (12, 1.4, 256, 0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": True},
        {"tokens": "many"},
        {"tokens": 10**19},
        {"tokens_per_parameter": 20.0},  # beside tokens
        {"tokens": None},
        {"axes": None},
        {"name": "Upper"},
        {"unknown": 1},
    ],
)
def test_wrong_values_are_refused(changes):
    with pytest.raises(ValidationError):
        study(**changes)


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ({"kind": "text"}, "path"),
        ({"kind": "fetched"}, "name"),
        ({"kind": "python-stdlib", "path": "x"}, "path"),
        ({"kind": "parquet", "path": "x", "config": "y"}, "config"),
    ],
)
def test_a_source_has_the_keys_of_its_kind(source, key):
    with pytest.raises(ValidationError, match=f"'{key}'"):
        Source(**source)
    Source(kind="huggingface", name="wikitext", config="wikitext-2-v1")


def test_same_definition_same_id_whatever_the_resources():
    first = study(resources={"shards": 1}, description="once")
    again = study(resources={"shards": 8}, description="again", tokens="1B")
    assert first.study_id == again.study_id
    assert first.study_id != study(tokens="2B").study_id
    assert first.study_id.startswith("x-")


@given(
    st.lists(
        st.sampled_from(["0.1B", "27M"])
        | st.builds(Shape, d_h=st.integers(2, 64), layers=st.just(3)),
        min_size=1,
    ),
    st.lists(st.builds(RunPoint, scale=st.just("1M"), seed=st.integers(0, 9)), max_size=3),
)
def test_json_and_back_is_the_same_study(scales, runs):
    made = study(axes=Axes(scale=scales), runs=runs)
    assert Study.model_validate_json(made.model_dump_json()) == made
    assert Study.model_validate_json(made.canonical_json).study_id == made.study_id


def test_schema_describes_every_key_and_accepts_counts_as_text():
    schema = Study.model_json_schema()
    definition = {
        "name": "x",
        "axes": {"scale": ["27M", {"d_h": 32, "layers": 4}]},
        "tokens": "1.2M",
        "data": {"domains": {"code": {"kind": "python-stdlib"}}},
        "optimization": {"batch_tokens": {"27M": "64K"}, "betas": [0.9, 0.95]},
    }
    jsonschema.validate(definition, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(definition | {"tokens": "many"}, schema)
    for name, part in schema["$defs"].items():
        assert part["description"], name
        for key, field in part["properties"].items():
            assert field.get("description") or field.get("$ref"), f"{name}.{key}"

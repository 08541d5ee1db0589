"""Loading: presets, files, and every mistake said at its place, all at once, never a traceback."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsing.study.definition.load import load_study, parse_study, preset_names
from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError
from sparsing.study.plan.runs import plan, plan_runs

GOOD = """\
name: small
axes:
  activation: [relu, silu]
  scale:
    - {d_h: 32, layers: 4}
tokens: 1M
data:
  domains:
    code: {kind: python-stdlib}
  sequence_tokens: 256
optimization:
  batch_tokens: 2048
"""


def problems(text: str | bytes) -> list[str]:
    """The lines of the message about a wrong definition."""
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(DefinitionError) as caught:
        parse_study(data, where="s.yaml", folder=Path("/x"))
    return str(caught.value).splitlines()


def only_problem(text: str | bytes) -> str:
    (line,) = problems(text)
    return line


def changed(*edits: tuple[str, str]) -> str:
    text = GOOD
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_presets_load_and_plan():
    assert preset_names() == [
        "demo",
        "quickstart",
        "sparsing_law",
        "validation_2_4b",
        "width_depth",
    ]
    for name in preset_names():
        assert plan_runs(load_study(name))


def test_a_file_and_the_folder_of_its_sources(tmp_path):
    file = tmp_path / "study.yaml"
    domains = "    a: {kind: text, path: texts/a}\n    b: {kind: parquet, path: /b}\n"
    domains += "    c: {kind: text, path: 's3://bucket/c'}\n"
    file.write_text(changed(("    code: {kind: python-stdlib}\n", domains)))
    loaded = load_study(str(file)).data.domains
    assert [source.path for source in loaded.values()] == [
        str(tmp_path / "texts/a"),
        "/b",
        "s3://bucket/c",
    ]
    assert load_study(str(file)) == load_study(str(file))


def test_canonical_json_loads_as_the_same_study(tmp_path):
    study = load_study("sparsing_law")
    file = tmp_path / "study.yaml"
    file.write_text(study.canonical_json)
    assert load_study(str(file)).study_id == study.study_id


def test_not_found_lists_presets(tmp_path):
    for selector in ("quickstrat", "no.yaml", "./no", str(tmp_path / "no.yml")):
        with pytest.raises(NotFoundError, match="presets: demo, quickstart"):
            load_study(selector)


@pytest.mark.parametrize(
    "selector", ["/", "a/\0.yaml", "~nobody-here/x.yaml", "x" * 5000 + ".yaml"]
)
def test_unreadable_files_are_messages(selector):
    with pytest.raises(SparsingError):
        load_study(selector)


@pytest.mark.parametrize(
    ("edit", "place", "words"),
    [
        (("tokens: 1M", "token: 1M"), "6:1: token = '1M'", "did you mean 'tokens'?"),
        (("relu, silu", "relu, sulu"), "3:22: axes.activation[1] = 'sulu'", "mean 'silu'?"),
        (("layers: 4", "layer: 4"), "5:17: axes.scale[0].layer = 4", "did you mean 'layers'?"),
        (("layers: 4", "layers: 0"), "5:25: axes.scale[0].layers = 0", "at least 1"),
        (("layers: 4", "layers: true"), "5:25: axes.scale[0].layers = true", "a whole number"),
        (("layers: 4", "layers: '4.5'"), "axes.scale[0].layers = '4.5'", "a whole number"),
        (("{d_h: 32, layers: 4}", "0.1b"), "5:7: axes.scale[0] = '0.1b'", "did you mean '0.1B'?"),
        (("[relu, silu]", "relu"), "3:15: axes.activation = 'relu'", "a list, such as"),
        (("[relu, silu]", "[]"), "3:15: axes.activation", "at least 1"),
        (("tokens: 1M", "tokens: 1e400"), "6:9: tokens = ", "a whole number"),
        (("tokens: 1M", "tokens: .nan"), "6:9: tokens = nan", "a whole number"),
        (("tokens: 1M", "tokens: " + "9" * 300), "6:9: tokens = a number over", "at most 1000000"),
        (("tokens: 1M", "tokens: " + "9" * 5000), "6:9: tokens = infinite", "a whole number"),
        (("tokens: 1M", "tokens: -5"), "6:9: tokens = -5", "at least 1"),
        (("name: small", "name: 7"), "1:7: name = 7", "text; put it in quotes"),
        (("name: small", "name: Small!"), "1:7: name = 'Small!'", "lower-case"),
        (("name: small\n", ""), "name", "missing"),
        (("    code:", "    Code:"), "9:5: data.domains.Code", "lower-case"),
        (("    code: {kind: python-stdlib}\n", ""), "8:3: data.domains = null", "keys with values"),
        (("python-stdlib", "text"), "9:5: data.domains.code", "needs the key 'path'"),
        (("python-stdlib", "pyton"), "9:18: data.domains.code.kind = 'pyton'", "python-stdlib"),
        (("tokens: 1M", "tokens: 1M\ntokens_per_parameter: 20"), "tokens", "either 'tokens' or"),
        (("batch_tokens: 2048", "betas: [0.9]"), "optimization.betas", "two values"),
        (("batch_tokens: 2048", "betas: [0.9, 1]"), "12:16: optimization.betas[1] = 1", "below 1"),
        (("batch_tokens: 2048", "zero_stage: 7"), "12:15: optimization.zero_stage = 7", "or 3"),
        (("batch_tokens: 2048", "peak_lr: 1"), "12:3: optimization.peak_lr", "peak_learning_rate"),
        (("batch_tokens: 2048", "xyzzy: 1"), "12:3: optimization.xyzzy = 1", "allowed here: peak"),
        (("batch_tokens: 2048", "warmup_tokens: {}"), "12:18: optimization.warmup", "a whole"),
    ],
)
def test_one_wrong_value(edit, place, words):
    line = only_problem(changed(edit))
    assert line.startswith("s.yaml:")
    assert place in line
    assert words in line


@pytest.mark.parametrize(
    ("edit", "place", "words"),
    [
        (("layers: 4", "layers: 4, heads: 3"), "5:35: axes.scale[0].heads = 3", "1, 2, 4, 8, 16"),
        (("d_h: 32", "d_h: 33"), "5:13: axes.scale[0].d_h = 33", "even"),
        (("  scale:", "  width_depth_ratio: [8]\n  scale:"), "width_depth_ratio[0] = 8", "leave"),
        (("batch_tokens: 2048", "batch_tokens: 2000"), "12:17: optimization.batch_tokens = 2000",
         "such as 1792 or 2048"),
        (("batch_tokens: 2048", "batch_tokens: {d3x4: 256}"), "optimization.batch_tokens.d3x4",
         "did you mean 'd32x4'?"),
        (("batch_tokens: 2048", "decay_tokens: 2M"), "12:17: optimization.decay_tokens",
         "beyond the end"),
        (("batch_tokens: 2048", "warmup_tokens: 1M\n  decay_tokens: 10K"), "warmup_tokens",
         "beyond the end"),
        (("tokens: 1M", "tokens: 500"), "6:9: tokens = 500", "less than one global batch"),
        (("name: small", "name: small\nresources: {shards: 3}"), "2:21: resources.shards = 3",
         "[1, 2, 4, 8]"),
        (("name: small", "name: small\nresources: {gpus_per_shard: 1.5}"), "2:29: resources",
         "whole number"),
        (("name: small", "name: small\ncheckpoints: {count: 600}"), "2:22: checkpoints.count = 600",
         "488 steps"),
        (("name: small", "name: small\ncheckpoints: {first_tokens: 2M}"), "first_tokens", "beyond"),
        (("name: small", "name: small\ncheckpoints: {tokens: [1K, 5K, 5K]}"),
         "2:32: checkpoints.tokens[2]", "must increase"),
        (("name: small", "name: small\ncheckpoints: {tokens: [4K, 4100]}"), "tokens[1] = 4100",
         "less than one global batch"),
        (("name: small", "name: small\ncheckpoints: {tokens: [5K, 2M]}"), "tokens[1] = '2M'",
         "beyond the end"),
        (("[relu, silu]", "[relu, relu]"), "3:22: axes.activation[1] = 'relu'", "given twice"),
        (("layers: 4}", "layers: 4}\n    - {d_h: 32, layers: 4, heads: 2}"), "6:7: axes.scale[1]",
         "run relu-d32x4-wd8-s0 again"),
        (("name: small", "name: small\nruns: [{scale: {d_h: 32, layers: 4}}]"), "2:8: runs[0]",
         "run relu-d32x4-wd8-s0 again"),
        (("{d_h: 32, layers: 4}", "1K"), "5:7: axes.scale[0] = '1K'", "explicit shape"),
        (("  scale:\n    - {d_h: 32, layers: 4}", "  scale: [47K]\n  width_depth_ratio: [64, 5]"),
         "5:27: axes.width_depth_ratio[1] = 5", "possible ratios near it"),
        (("activation: [relu, silu]", f"seed: {list(range(10_001))}"), "axes", "at most 10000"),
    ],
)  # fmt: skip
def test_one_impossible_combination(edit, place, words):
    line = only_problem(changed(edit))
    assert place in line
    assert words in line


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "s.yaml:1:1", "empty"),
        ("# only a comment\n", "s.yaml:1:1", "empty"),
        ("- a\n- b\n", "s.yaml:1:1", "keys with values"),
        ("just words", "s.yaml:1:1", "keys with values"),
        (b"\x7fELF\x02\x01\x00\xff", "s.yaml:1:1", "UTF-8"),
        (b"name: x\n# \xe9t\xe9\n", "s.yaml:2:1", "UTF-8"),
        ("name: a\0b", "s.yaml:1:1", "not YAML"),
        ("name: [a\n", "s.yaml:2:1", "expected ',' or ']'"),
        ("name: a: b\n", "s.yaml:1:8", "mapping values are not allowed"),
        ("\tname: a\n", "s.yaml:1:1", "'\\t'"),
        ('name: "\\UFFFFFFFF"\n', "s.yaml:1:1", "does not exist"),
        (GOOD + "---\n" + GOOD, "s.yaml:13:1", "a second document"),
        ("a: " + "[" * 100_000, "s.yaml:1:36", "nested deeper than 32"),
        ("a:\n" + "".join(" " * i + "- \n" for i in range(1, 400)), "s.yaml", "nested deeper"),
        ("x" * 300_000, "s.yaml:1:1", "at most 256000"),
        (changed(("name: small", "name: &n small")), "1:7: name", "anchor &n"),
        (changed(("name: small", "name: *n")), "1:7: name", "alias *n"),
        (changed(("name: small", "name: !!python/name:os.system x")), "1:7: name", "tag"),
        (changed(("name: small", "name: small\nname: x")), "2:1: name", "first in line 1"),
        (changed(("name: small", "name: small\n<<: {a: 1}")), "2:1: <<", "merge key"),
        (changed(("name: small", "name: small\n? [a, b]\n: 1")), "2:3: ?", "must be text"),
    ],
)
def test_what_is_no_good_yaml(text, place, words):
    line = only_problem(text)
    assert place in line
    assert words in line


def test_all_problems_at_once_and_none_twice():
    text = changed(
        ("name: small", "name: Small"),
        ("relu, silu", "relu, sulu"),
        ("layers: 4}", "layers: 4, heads: 3}\n    - {d_h: 48}\n    - {d_h: 31, layers: 2}"),
        ("tokens: 1M", "token: 1M"),
        ("python-stdlib", "text"),
        ("batch_tokens: 2048", "batch_tokens: 2000\n  decay_token: 5M"),
    )
    text += "resources: {gpus_per_shard: 2.5}\n"
    places = [
        line.split(":", 3)[3].split(":")[0].split(" = ")[0].strip() for line in problems(text)
    ]
    assert places == [
        "name",
        "axes.activation[1]",
        "axes.scale[0].heads",
        "axes.scale[1].layers",
        "axes.scale[2].d_h",
        "token",
        "data.domains.code",
        "optimization.batch_tokens",
        "optimization.decay_token",
        "resources.gpus_per_shard",
    ]


def test_nothing_is_said_about_what_rests_on_a_wrong_value():
    text = changed(("sequence_tokens: 256", "sequence_tokens: 3.5"), ("2048", "2000"))
    assert "data.sequence_tokens = 3.5" in only_problem(text)
    text = changed(("tokens: 1M", "tokens: 1X"), ("2048", "2048\n  decay_tokens: 9M"))
    assert "tokens = '1X'" in only_problem(text)


def test_yaml_is_1_2():
    text = changed(("name: small", 'name: "no"\ndescription: yes'))
    study = parse_study(text.encode(), where="s", folder=Path("/"))
    assert (study.name, study.description) == ("no", "yes")
    with_mark = b"\xef\xbb\xbf" + GOOD.encode()
    assert parse_study(with_mark, where="s", folder=Path("/")).name == "small"


def _loads_or_says_why(data: bytes) -> None:
    """A study that can be planned, or lines that name their place."""
    try:
        study = parse_study(data, where="f.yaml", folder=Path("/"))
    except DefinitionError as error:
        for line in str(error).splitlines():
            assert line.startswith("f.yaml:"), line
            assert len(line) < 2000
    else:
        plan(study)


PRESETS = [
    (Path(__file__).parents[3] / f"study/presets/{n}.yaml").read_text() for n in preset_names()
]
WEIRD = [
    *("null", "true", "-1", "0", "1", "3", "1e400", "-1e308", ".nan", "-.inf", "9" * 400, "0x1F"),
    *("[]", "{}", "[[]]", "{a: 1}", "[1, 2, 3]", "''", "x", "27M", "1e18", "0.1B", "'\\0'", "0o17"),
    *("&a x", "*a", "!!set {}", "<<", "?", "|", "2**70", "99999999999999999999", "1e-320", "d32x4"),
    *("{d_h: 2, layers: 10000}", "{d_h: 1048576, layers: 1, heads: 7}", "999999B", "\u202e", "💥"),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PRESETS), st.lists(st.tuples(st.integers(0, 400), st.sampled_from(WEIRD))))
def test_presets_with_other_values(text, changes):
    """Words of the text, keys or values, replaced by others."""
    words = text.replace("[", "[ ").replace("{", "{ ").replace(",", " ,").split(" ")
    for place, value in changes[:6]:
        word = words[place % len(words)]
        keep = ":" if word.endswith(":") else "\n" if word.endswith("\n") else ""
        words[place % len(words)] = value + keep
    _loads_or_says_why(" ".join(words).encode())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PRESETS), st.integers(0, 2**32))
def test_damaged_presets(text, seed):
    """Bytes lost, doubled or changed, lines moved."""
    chance, data = random.Random(seed), bytearray(text.encode())
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(data))
        size = chance.randint(1, 30)
        edit = chance.choice([b"", bytes(data[at : at + size]) * 2, bytes([chance.randrange(256)])])
        data[at : at + size] = edit
    _loads_or_says_why(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")))
def test_any_bytes(data):
    _loads_or_says_why(data)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(("name", "axes", "runs", "tokens", "data", "optimization", "mup", "laws")), JUNK
)
def test_any_value_under_a_key(key, value):
    import json

    lines = [line for line in GOOD.splitlines() if not line.startswith((f"{key}:", " "))]
    _loads_or_says_why("\n".join([f"{key}: {json.dumps(value)}", *lines]).encode())


def test_large_files_do_not_take_long():
    text = "axes: {scale: [" + ", ".join(f"{i}K" for i in range(1, 30_000)) + "]}"
    start = time.perf_counter()
    _loads_or_says_why(text.encode())
    assert time.perf_counter() - start < 20

"""Decoding with a cache gives the tokens of whole forwards; `sparsing generate`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from foreign_models import byte_tokenizer, family, save, sentences, train
from safetensors.torch import save_file

from sparsing.actors.models.generate import active_fraction, decoder_of, greedy, use_sparse
from sparsing.actors.models.hugging_face import load_foreign
from sparsing.actors.models.subject import Subject
from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.actors.training.checkpoint_write import write_marker
from sparsing.kernels.activity import Cett, StraightforwardRelu, out_norms
from sparsing.kernels.thresholds import NeuronThresholds, load_thresholds, neuron_thresholds
from sparsing.study.commands.main import cli
from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError
from sparsing.study.store.checkpoint_marker import Checkpoint

CPU = torch.device("cpu")
PROMPT = [5, 17, 3, 40, 8]


def own(activation: str = "relu") -> Subject:
    """A model of ours whose branches weigh enough to make its tokens various."""
    config = ModelConfig(
        d_h=48,
        layers=3,
        d_f=160,
        heads=4,
        activation=activation,
        vocabulary_size=257,
        scale_emb=1.0,
        scale_depth=6.0,
        dim_model_base=16,
        init_std=0.4,
    )
    model = Transformer(config).initialize(3)
    return Subject(model, model, config.vocabulary_size, CPU)


def take_sparse_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for layers so small that the crossover would compute them densely."""
    monkeypatch.setattr("sparsing.kernels.ffn.may_pay", lambda *_: True)
    monkeypatch.setattr("sparsing.kernels.ops.products_pay", lambda *_: True)
    monkeypatch.setattr("sparsing.kernels.ops.sparse_pays", lambda *_: True)


def whole_forwards(subject: Subject, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy decoding without a cache."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(subject._logits(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of others, and a checkpoint of ours."""
    root = tmp_path_factory.mktemp("writing")
    text = sentences(3000)
    (root / "text.txt").write_text(text)
    save(train(family("Llama", hidden_act="relu"), text, 60), root / "llama")
    save(family("Qwen3"), root / "qwen3")
    model = own().model
    step = root / "own" / "checkpoints" / "relu-s0" / "step-000000001"
    step.mkdir(parents=True)
    weights = {f"weight/{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(weights, step / "shard-0.safetensors")
    marker = Checkpoint(
        run="relu-s0",
        attempt=1,
        step=1,
        tokens=1,
        files={"shard-0.safetensors": (step / "shard-0.safetensors").stat().st_size},
        config=asdict(model.config),
        code_version="test",
        save_seconds=0.0,
    )
    write_marker(step, marker)
    (step / "tokenizer.json").write_text(json.dumps({"kind": "bytes"}))
    shutil.copytree(step, root / "step")
    return root


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_our_cache_gives_the_tokens_of_whole_forwards(activation: str) -> None:
    subject = own(activation)
    found = greedy(decoder_of(subject), PROMPT, 40, CPU).tokens
    assert found == whole_forwards(subject, PROMPT, 40)
    assert len(set(found)) > 5, "tokens that never change would prove little"


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_foreign_cache_gives_the_tokens_of_whole_forwards(folder: Path, name: str) -> None:
    subject = load_foreign(folder / name, CPU).subject
    assert greedy(decoder_of(subject), PROMPT, 30, CPU).tokens == whole_forwards(
        subject, PROMPT, 30
    )


def test_exact_relu_gives_the_dense_tokens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where every layer takes the sparse way, small as it is."""
    take_sparse_ways(monkeypatch)
    for subject in (own(), load_foreign(folder / "llama", CPU).subject):
        dense = greedy(decoder_of(subject), PROMPT, 40, CPU).tokens
        used = use_sparse(subject, None)
        assert greedy(decoder_of(subject), PROMPT, 40, CPU).tokens == dense
        assert 0.05 < active_fraction(subject, used, PROMPT, dense) < 0.95


def test_thresholds_give_the_tokens_of_the_masked_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_sparse_ways(monkeypatch)
    subject = own("silu")
    with torch.no_grad():
        hidden = torch.randn(50, 48)
        ffn = subject.ffns[0]
        eps = float((ffn.intermediate(hidden).abs() * out_norms(ffn.w_out.weight)).median())
    with subject.sparse([Cett(eps)] * 3):
        expected = greedy(decoder_of(subject), PROMPT, 30, CPU).tokens
    assert greedy(decoder_of(subject), PROMPT, 30, CPU).tokens != expected
    norms = [out_norms(ffn.w_out.weight) for ffn in subject.ffns]
    rules = use_sparse(subject, [NeuronThresholds(neuron_thresholds(eps, n)) for n in norms])
    assert greedy(decoder_of(subject), PROMPT, 30, CPU).tokens == expected
    active = active_fraction(subject, rules, PROMPT, expected)
    assert 0.05 < active < 0.95


def test_active_fraction_is_that_of_the_positions_that_wrote() -> None:
    subject = own()
    ffn, found = subject.ffns[1], []
    tokens = [9, 8, 7]
    with torch.no_grad():
        ffn.watcher = lambda s, z, out: found.append((s[0] != 0).float().mean(1))
        subject._logits(torch.tensor([[*PROMPT, *tokens]]))
        ffn.watcher = None
    only = [StraightforwardRelu()] * 3
    whole = active_fraction(subject, only, PROMPT, tokens)
    others = []
    for layer in (0, 2):
        subject.ffns[layer].watcher = lambda s, z, out: others.append((s[0] != 0).float().mean(1))
    with torch.no_grad():
        subject._logits(torch.tensor([[*PROMPT, *tokens]]))
    expected = torch.stack([*found, *others])[:, 4:7].mean()
    assert whole == pytest.approx(float(expected), rel=1e-6)


def test_an_end_ends_and_a_past_has_its_bounds() -> None:
    subject = own()
    found = greedy(decoder_of(subject), PROMPT, 40, CPU).tokens
    end = found[7]
    stopped = greedy(decoder_of(subject), PROMPT, 40, CPU, frozenset({end})).tokens
    assert stopped == found[: found.index(end) + 1]
    model = subject.model
    past = model.past(4)
    model.next_logits(torch.tensor([1, 2]), past)
    with pytest.raises(ValueError, match="one at a time"):
        model.next_logits(torch.tensor([1, 2]), past)
    model.next_logits(torch.tensor([1]), past)
    model.next_logits(torch.tensor([1]), past)
    with pytest.raises(ValueError, match="room for 4 tokens, not for 5"):
        model.next_logits(torch.tensor([1]), past)


def test_what_cannot_be_sparse_is_refused() -> None:
    with pytest.raises(DefinitionError, match="no exact zeros"):
        use_sparse(own("silu"), None)
    with pytest.raises(DefinitionError, match=r"2 layers of \[160\] neurons, the model has 3"):
        use_sparse(own(), [NeuronThresholds(torch.zeros(160))] * 2)
    with pytest.raises(DefinitionError, match=r"of \[7\] neurons"):
        use_sparse(own(), [NeuronThresholds(torch.zeros(7))] * 3)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["generate", *arguments])


def test_the_command_writes_text_and_says_how_fast(folder: Path) -> None:
    prompt = ["--prompt", "the neuron ", "--tokens", "12"]
    for model in ("step", "llama"):
        where = str(folder / model)
        dense, sparse = call(where, *prompt), call(where, *prompt, "--sparse")
        assert dense.exit_code == sparse.exit_code == 0, dense.output
        assert dense.stdout == sparse.stdout
        assert "12 tokens, sparse" in sparse.stderr
        assert "tokens/s" in sparse.stderr
        assert "% of neurons active" in sparse.stderr
    document = json.loads(call(where, *prompt, "--json").stdout)
    assert document["way"] == "dense"
    assert len(document["tokens"]) == 12
    assert document["text"] == dense.stdout.removesuffix("\n")
    assert document["tokens_per_second"] > 0
    assert 0 < document["active_fraction"] < 1


def test_thresholds_of_a_measurement_are_used(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "llama.safetensors"
    options = ["--sequence-tokens", "64", "--metric", "cett", "--cett", "0.2"]
    measured = CliRunner().invoke(
        cli,
        [
            *("measure", str(folder / "llama"), "--data", str(folder / "text.txt"), *options),
            *("--tokens", "1024", "--thresholds", str(file)),
        ],
    )
    assert measured.exit_code == 0, measured.output
    exact = json.loads(call(str(folder / "llama"), "--prompt", "so ", "--json").stdout)
    weak = call(str(folder / "llama"), "--prompt", "so ", "--thresholds", str(file), "--json")
    document = json.loads(weak.stdout)
    assert document["way"] == "thresholds"
    assert document["active_fraction"] < exact["active_fraction"]
    assert len(load_thresholds(file)) == 3


def test_wrong_input_is_named(folder: Path, tmp_path: Path) -> None:
    llama = str(folder / "llama")
    cases = [
        ([llama, "--prompt", "a", "--sparse", "--thresholds", "x.safetensors"], "give one of them"),
        ([llama, "--prompt", ""], "no tokens"),
        ([llama, "--prompt", "a", "--tokens", "0"], "0"),
    ]
    for arguments, message in cases:
        result = call(*arguments)
        assert result.exit_code == 2
        assert message in result.stderr
    text = tmp_path / "no.safetensors"
    text.write_text("no")
    errors: list[tuple[list[str], type[SparsingError], str]] = [
        ([str(tmp_path / "none"), "--prompt", "a"], NotFoundError, "no such folder"),
        ([llama, "--prompt", "a", "--thresholds", "none"], NotFoundError, "no such file"),
        ([llama, "--prompt", "a", "--thresholds", str(text)], DefinitionError, "no file of"),
        ([llama, "--prompt", "a" * 300], DefinitionError, "made for 256 tokens"),
        ([str(folder / "qwen3"), "--prompt", "a", "--sparse"], DefinitionError, "no exact zeros"),
    ]
    for arguments, kind, message in errors:
        error = call(*arguments).exception
        assert isinstance(error, kind)
        assert message in str(error)


def test_a_prompt_is_not_closed(folder: Path) -> None:
    """Measured text ends with the model's EOS; text that goes on does not."""
    tokenizer = load_foreign(folder / "llama", CPU).tokenizer
    assert tokenizer.encode("ab") == byte_tokenizer().encode("ab").ids
    assert tokenizer.documents(["ab"])[0].tolist() == [*tokenizer.encode("ab"), 256]

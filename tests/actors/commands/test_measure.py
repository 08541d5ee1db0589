"""`sparsing measure`, as people call it: on checkpoints of ours and on models of others."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from foreign_models import family, save, sentences, train
from safetensors.torch import load_file, save_file

from sparsing.actors.data.prepare import prepare
from sparsing.actors.measuring.inputs.text import Halves, of_files
from sparsing.actors.models.hugging_face import load_foreign
from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.actors.training.checkpoint_write import write_marker
from sparsing.kernels.thresholds import load_thresholds
from sparsing.study.commands.main import cli
from sparsing.study.definition.model import Study
from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError
from sparsing.study.store.checkpoint_folders import checkpoint_folder
from sparsing.study.store.checkpoint_marker import Checkpoint
from sparsing.study.store.study_store import StudyStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, and models that know them a little."""
    root = tmp_path_factory.mktemp("measured")
    (root / "prose.txt").write_text(sentences(3000, seed=1))
    rows = [json.dumps({"text": sentences(100, seed=i)}) for i in range(2, 22)]
    (root / "lines.jsonl").write_text("\n".join(rows))
    text = sentences(6000)
    save(train(family("Llama", hidden_act="relu"), text, 60), root / "llama")
    save(train(family("Llama", hidden_act="relu"), text, 40), root / "llama-earlier")
    save(train(family("Qwen3"), text, 40), root / "qwen3")
    return root


def call(folder: Path, *arguments: str, text: str | None = "prose.txt") -> Result:
    data = [] if text is None else ["--data", str(folder / text), "--sequence-tokens", "64"]
    return CliRunner().invoke(cli, ["measure", *data, *arguments])


def measured(folder: Path, *arguments: str, text: str | None = "prose.txt") -> dict[str, Any]:
    result = call(folder, *arguments, "--json", text=text)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def overall(document: dict[str, Any], model: int = 0) -> dict[str, Any]:
    rows = document["models"][model]["sparsity"]
    return next(r for r in rows if r["domain"] is None and r.get("layer") is None)


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("relu", []),
        ("topk", ["--k", "24"]),
        ("fat", ["--eps", "0.2"]),
        ("cett", ["--cett", "0.2"]),
        ("cett_ppl", ["--p", "5"]),
    ],
)
def test_every_metric(folder: Path, metric: str, options: list[str]) -> None:
    document = measured(folder, str(folder / "llama"), "--metric", metric, *options)
    row = overall(document)
    assert document["metric"] == metric
    assert 0 < row["activation_ratio_low"] <= row["activation_ratio"] <= 1
    assert row["activation_ratio"] <= row["activation_ratio_high"]
    layers = [r for r in document["models"][0]["sparsity"] if r.get("layer") is not None]
    assert len(layers) == 2 * 3
    assert row["measured_tokens"] == document["reporting_tokens"]
    if metric == "topk":
        assert row["activation_ratio"] == pytest.approx(24 / 96)
    if metric == "relu":
        assert row["sparse_loss"] == pytest.approx(row["dense_loss"], abs=1e-6)
    if metric == "cett_ppl":
        assert 2 < row["ppl_rise_percent"] < 8


def test_dense_loss_is_that_of_transformers(folder: Path) -> None:
    row = overall(measured(folder, str(folder / "qwen3"), "--metric", "cett", "--cett", "0.1"))
    foreign = load_foreign(folder / "qwen3", torch.device("cpu"))
    report = files_of(folder, foreign.tokenizer.documents).report
    model = family("Qwen3")
    model.load_state_dict(load_file(folder / "qwen3" / "model.safetensors"))
    total = 0.0
    for tokens, count in zip(report.tokens, report.counts, strict=True):
        ids = torch.from_numpy(tokens[: count + 1])[None]
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * count
    assert row["dense_loss"] == pytest.approx(total / report.counts.sum(), rel=1e-5)


def files_of(folder: Path, documents: Any) -> Halves:
    return of_files({"prose": folder / "prose.txt"}, "text", documents, 64, lambda line: None)


def test_thresholds_give_the_same_masks_and_loss(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    arguments = [str(folder / "llama"), "--thresholds", str(path)]
    row = overall(measured(folder, *arguments))
    foreign = load_foreign(folder / "llama", torch.device("cpu"))
    report = files_of(folder, foreign.tokenizer.documents).report
    with foreign.subject.sparse(load_thresholds(path)):
        losses = foreign.subject.losses(report)
    # To the bit, though the thresholds are contributions of tokens: rounding would tell.
    assert report.mean(losses) == row["sparse_loss"]
    eps = load_file(path)["layers.1.eps"]
    norms = foreign.subject.ffns[1].w_out.weight.norm(dim=0)
    torch.testing.assert_close(load_file(path)["layers.1.neurons"], (eps / norms).detach())


def test_halves_share_no_sequence(folder: Path) -> None:
    counting = [np.arange(10_000)]
    halves = files_of(folder, lambda texts: counting)
    chosen, reported = (set(h.tokens[:, 0].tolist()) for h in (halves.choose, halves.report))
    assert not chosen & reported
    assert len(chosen | reported) == 157
    part = halves.first(10)
    assert len(part.choose) == len(part.report) == 10
    assert part.choose.tokens[:, 0].tolist() == halves.choose.tokens[:10, 0].tolist()


def test_domains_are_files_of_equal_weight(folder: Path) -> None:
    arguments = [str(folder / "llama"), "--data", f"other={folder / 'lines.jsonl'}"]
    document = measured(folder, *arguments, "--metric", "topk", "--k", "9")
    rows = {r["domain"]: r for r in document["models"][0]["sparsity"] if r.get("layer") is None}
    assert set(rows) == {"prose", "other", None}
    losses = [rows[name]["dense_loss"] for name in ("prose", "other")]
    assert rows[None]["dense_loss"] == pytest.approx(np.mean(losses))
    assert rows["prose"]["measured_tokens"] > rows["other"]["measured_tokens"]


def test_several_checkpoints_share_one_cett(folder: Path) -> None:
    paths = [str(folder / name) for name in ("llama", "llama-earlier")]
    both = measured(folder, *paths)
    alone = [measured(folder, path)["models"][0]["cett"] for path in paths]
    first, second = (model["cett"] for model in both["models"])
    assert first == second
    assert min(alone) * 0.98 <= first <= max(alone) * 1.02


def test_precision_grows_the_tokens_until_it_is_reached(folder: Path) -> None:
    document = measured(folder, str(folder / "llama"), "--precision", "0.5", "--p", "10")
    assert document["precision"] <= 0.5
    used = document["choosing_tokens"] + document["reporting_tokens"]
    assert used < 17_000
    result = call(folder, str(folder / "llama"), "--precision", "0.0001", "--p", "10")
    assert isinstance(result.exception, SparsingError)
    assert result.exception.exit_code == 4
    assert "was not reached: all" in str(result.exception)
    assert "activation ratio known to" in result.stdout


def test_tokens_bound_what_is_used(folder: Path) -> None:
    document = measured(folder, str(folder / "llama"), "--tokens", "5000")
    assert 4800 <= document["choosing_tokens"] + document["reporting_tokens"] <= 5000


def test_plain_output_and_progress(folder: Path) -> None:
    result = call(folder, str(folder / "llama"))
    for words in ("metric cett_ppl, p 1 %, CETT", "dead neurons", "prose", "in sequences of 64"):
        assert words in result.stdout
    assert "weights in float32, computed in float32" in result.stdout
    assert "searching the CETT value" in result.stderr


def test_untrained_model_is_remarked_on(folder: Path, tmp_path: Path) -> None:
    untrained = save(family("Mistral", hidden_act="relu"), tmp_path / "untrained")
    result = call(folder, str(untrained), "--tokens", "4096")
    assert "is the model trained" in result.stdout


def test_pareto(folder: Path) -> None:
    document = measured(folder, str(folder / "llama"), "--pareto", "--tokens", "8000")
    rows = document["models"][0]["pareto"]
    assert {row["metric"] for row in rows} == {"relu", "topk", "fat", "cett"}
    result = call(folder, str(folder / "llama"), "--pareto", "--tokens", "8000")
    assert "topk" in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--metric", "topk"], "needs k"),
        (["--metric", "fat", "--p", "1"], "takes eps, not p"),
        (["--metric", "relu", "--k", "1"], "has no parameter, not k"),
        (["--metric", "topk", "--k", "97"], "--k 97 is over its 96 neurons"),
        (["--metric", "relu"], "gives no zeros"),
        (["--thresholds", "t.bin"], "must end in .safetensors"),
        (["--thresholds", "none/t.safetensors"], "no folder none"),
        (["--metric", "topk", "--k", "9", "--thresholds", "t.safetensors"], "finds no thresholds"),
        (["--metric", "cett", "--cett", "0"], "is not in the range"),
        (["--pareto", "--p", "2"], "--pareto takes no"),
        (["--tokens", "500"], "--tokens 500 is too few"),
        (["--sequence-tokens", "300"], "was made for at most 256"),
        (["--data", "none.txt"], "no such file"),
    ],
)
def test_wrong_options(folder: Path, options: list[str], words: str) -> None:
    result = call(folder, str(folder / "qwen3"), *options)
    assert result.exit_code != 0
    assert words in result.output + str(result.exception)
    code = getattr(result.exception, "exit_code", result.exit_code)
    assert code == 2


def test_wrong_texts(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "short.txt").write_text(sentences(40))
    (tmp_path / "keys.jsonl").write_text('{"content": "a"}')
    for name, words in (
        ("empty.txt", "no text"),
        ("short.txt", "16 sequences of 64 tokens are needed"),
        ("keys.jsonl", "no 'text'"),
    ):
        arguments = [str(folder / "llama"), "--data", str(tmp_path / name), "--sequence-tokens"]
        result = call(folder, *arguments, "64", text=None)
        assert isinstance(result.exception, DefinitionError)
        assert words in str(result.exception)
    result = call(folder, str(folder / "llama"), "--data", str(folder / "prose.txt"))
    assert "a domain prose already" in str(result.exception)


def test_a_folder_of_text_is_a_domain(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    for index in range(3):
        (tmp_path / "books" / f"{index}.txt").write_text(sentences(1200, seed=index))
    arguments = [str(folder / "llama"), "--metric", "relu", "--sequence-tokens", "64"]
    data = ["--data", str(tmp_path / "books")]
    assert measured(folder, *arguments, *data, text=None)["reporting_tokens"] > 4000
    (tmp_path / "books" / "more.jsonl").write_text("{}")
    result = call(folder, *arguments, *data, text=None)
    assert isinstance(result.exception, DefinitionError)
    assert "several kinds" in str(result.exception)


def test_bos_stands_before_each_sequence_where_the_tokenizer_puts_one(
    folder: Path, tmp_path: Path
) -> None:
    """A model that was trained with BOS before each sequence is measured so, and asked about."""
    with_bos = tmp_path / "bos"
    model = family("Llama", hidden_act="relu", bos_token_id=255)
    save(train(model, sentences(6000), 60, before=255), with_bos)
    (with_bos / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    arguments = [str(with_bos), "--metric", "relu"]
    plain = call(folder, *arguments, "--json")
    document = json.loads(plain.stdout)
    assert document["tokens_before_each_sequence"] == [255]
    without = measured(folder, *arguments, "--no-bos")
    assert without["tokens_before_each_sequence"] == []
    assert without["reporting_tokens"] == pytest.approx(document["reporting_tokens"], rel=0.01)
    (with_bos / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert measured(folder, *arguments)["tokens_before_each_sequence"] == []


def test_an_implausible_loss_is_questioned(folder: Path, tmp_path: Path) -> None:
    save(family("Llama", hidden_act="relu"), tmp_path / "random")
    asked = call(folder, str(tmp_path / "random"), "--metric", "relu")
    assert "is it trained" in asked.stderr
    assert "is it trained" not in call(folder, str(folder / "llama"), "--metric", "relu").stderr


def test_wrong_folders(folder: Path, tmp_path: Path) -> None:
    for path, words in ((tmp_path, "neither a checkpoint"), (tmp_path / "none", "no such folder")):
        result = call(folder, str(path))
        assert isinstance(result.exception, NotFoundError)
        assert words in str(result.exception)
    result = call(folder, str(folder / "llama"), text=None)
    assert "give text by --data" in str(result.exception)


def test_damaged_weights_are_named(folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder / "llama", tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    result = call(folder, str(broken))
    assert "its loss is not a number" in str(result.exception)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in a study's store, with the study's data beside it."""
    root = tmp_path_factory.mktemp("store")
    (root / "corpus.txt").write_text("\n\n".join(sentences(60, seed=i) for i in range(400)))
    study = Study.model_validate(
        {
            "name": "tiny",
            "tokens": 4096,
            "axes": {"scale": [{"d_h": 16, "layers": 2}]},
            "data": {
                "domains": {"prose": {"kind": "text", "path": str(root / "corpus.txt")}},
                "tokenizer": {"kind": "bytes"},
                "sequence_tokens": 64,
                "validation": {"tokens": 4096},
            },
        }
    )
    prepare(study, root / "data")
    store = StudyStore.create(root, study)
    config = ModelConfig(d_h=16, layers=2, d_f=40, heads=2, activation="relu", vocabulary_size=257)
    folder = checkpoint_folder(store.path, "relu", 10)
    folder.mkdir(parents=True)
    weights = {f"weight/{n}": p for n, p in Transformer(config).initialize(0).named_parameters()}
    save_file({n: p.detach() for n, p in weights.items()}, folder / "shard-0.safetensors")
    size = (folder / "shard-0.safetensors").stat().st_size
    about = Checkpoint(
        run="relu",
        attempt=1,
        step=10,
        tokens=640,
        files={"shard-0.safetensors": size},
        config=asdict(config),
        code_version="test",
        save_seconds=0.1,
    )
    write_marker(folder, about)
    return folder


def test_own_checkpoint_on_its_studys_validation_data(checkpoint: Path) -> None:
    document = measured(checkpoint, str(checkpoint), "--metric", "relu", text=None)
    assert document["reporting_tokens"] == 2048
    assert document["sequence_tokens"] == 64
    assert 0.3 < overall(document)["activation_ratio"] < 0.7


def test_own_data_is_found_when_its_source_is_gone(checkpoint: Path, tmp_path: Path) -> None:
    root = checkpoint.parents[3]
    moved = Path(shutil.copytree(root, tmp_path / "moved"))
    path = moved / checkpoint.relative_to(root)
    (root / "corpus.txt").rename(root / "gone.txt")
    try:
        measured(checkpoint, str(path), "--metric", "topk", "--k", "4", text=None)
    finally:
        (root / "gone.txt").rename(root / "corpus.txt")
    shutil.rmtree(moved / "data")
    result = call(checkpoint, str(path), text=None)
    assert "holds no data of study tiny" in str(result.exception)


def test_own_checkpoint_outside_its_store(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(checkpoint, tmp_path / "step"))
    result = call(folder, str(alone))
    assert isinstance(result.exception, NotFoundError)
    assert "tokenizer.json" in str(result.exception)
    [tokenizer] = checkpoint.parents[3].glob("data/*/tokenizer.json")
    shutil.copy(tokenizer, alone)
    measured(folder, str(alone), "--metric", "relu")
    result = call(folder, str(checkpoint.parent))
    assert "its checkpoints are step-000000010" in str(result.exception)


def test_models_with_other_tokenizers_are_not_mixed(folder: Path, checkpoint: Path) -> None:
    result = call(folder, str(folder / "llama"), str(checkpoint))
    assert "another tokenizer" in str(result.exception)


def test_a_linked_folder_of_checkpoints_is_its_studys(checkpoint: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(checkpoint.parents[3], tmp_path / "store"))
    study = root / checkpoint.parents[2].name
    (study / "checkpoints").rename(tmp_path / "elsewhere")
    (study / "checkpoints").symlink_to(tmp_path / "elsewhere")
    path = study / "checkpoints" / "relu" / checkpoint.name
    assert measured(checkpoint, str(path), "--metric", "relu", text=None)["sequence_tokens"] == 64
    prompt = ["generate", str(path), "--prompt", "the", "--json"]
    near = json.loads(CliRunner().invoke(cli, [*prompt, "--tokens", "4"]).stdout)
    assert near["trained_positions"] == 64
    assert near["tokens_beyond_trained_positions"] == 0
    far = CliRunner().invoke(cli, [*prompt, "--tokens", "70"])
    assert json.loads(far.stdout)["tokens_beyond_trained_positions"] == near["prompt_tokens"] + 6
    assert "note" in far.stderr

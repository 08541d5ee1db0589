"""Models of several families: read, replaced, and in every error named."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from foreign_models import SHAPE, byte_tokenizer, family, save, sentences
from safetensors.torch import load_file, save_file

from sparsing.actors.bench.models import llama_weights
from sparsing.actors.measuring.inputs.text import of_files
from sparsing.actors.models.hugging_face import ForeignTokenizer, load_foreign
from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError

CPU = torch.device("cpu")
FAMILIES = {
    "Llama": {},
    "Mistral": {"hidden_act": "relu", "sliding_window": 16},
    "Qwen2": {"hidden_act": "relu2", "use_sliding_window": False},
    "Qwen3": {"hidden_act": "gelu_pytorch_tanh"},
    "Gemma": {"hidden_activation": "gelu_pytorch_tanh"},
    "Granite": {"hidden_act": "gelu", "logits_scaling": 2.0, "residual_multiplier": 0.5},
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "prose.txt"
    path.write_text(sentences(400))
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(family("Llama"), tmp_path_factory.mktemp("llama"))


@pytest.fixture
def broken(llama: Path, tmp_path: Path) -> Path:
    """A copy of a model's folder, to be broken."""
    return Path(shutil.copytree(llama, tmp_path / "broken"))


def change(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Granite"])
def test_loss_is_that_of_transformers(name: str, tmp_path: Path, text: Path) -> None:
    model = family(name, **FAMILIES[name])
    foreign = load_foreign(save(model, tmp_path / "model"), CPU)
    halves = of_files({"prose": text}, "text", foreign.tokenizer.documents, 64, lambda line: None)
    sequences = halves.report
    losses = foreign.subject.losses(sequences)
    whole = [i for i in range(len(sequences)) if sequences.counts[i] == 64]
    for i in whole[:6]:
        ids = torch.from_numpy(sequences.tokens[i])[None]
        with torch.no_grad():
            expected = model(input_ids=ids, labels=ids).loss
        assert losses[i] / 64 == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Gemma"])
def test_forward_is_the_same_to_the_bit_and_weights_are_shared(name: str, tmp_path: Path) -> None:
    model = family(name, **FAMILIES[name])
    folder = save(model, tmp_path / "model")
    foreign = load_foreign(folder, CPU)
    assert len(foreign.subject.ffns) == SHAPE["num_hidden_layers"]
    ids = torch.randint(257, (2, 48), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(foreign.subject.model(input_ids=ids).logits, model(input_ids=ids).logits)
    numbers = sum(p.numel() for p in foreign.subject.model.parameters())
    assert numbers == sum(p.numel() for p in model.parameters())


def test_bfloat16_weights_are_computed_in_float32(tmp_path: Path) -> None:
    foreign = load_foreign(save(family("Llama").to(torch.bfloat16), tmp_path / "model"), CPU)
    assert foreign.stored == "bfloat16"
    assert foreign.computed == "float32"
    assert foreign.subject.ffns[0].w_in.weight.dtype == torch.float32


def test_minicpm_is_our_own_model(tmp_path: Path) -> None:
    config = ModelConfig(d_h=48, layers=3, d_f=120, heads=4, activation="relu", vocabulary_size=257)
    model = Transformer(config).initialize(3)
    folder = tmp_path / "minicpm"
    folder.mkdir()
    save_file(llama_weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    about = {
        "model_type": "minicpm",
        "architectures": ["MiniCPMForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_minicpm.MiniCPMForCausalLM"},
        "vocab_size": 257,
        "hidden_size": 48,
        "intermediate_size": 120,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "hidden_act": "relu",
        "max_position_embeddings": 512,
        "rms_norm_eps": config.norm_epsilon,
        "scale_emb": config.scale_emb,
        "scale_depth": config.scale_depth,
        "dim_model_base": config.dim_model_base,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(about))
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    foreign = load_foreign(folder, CPU)
    ids = torch.randint(257, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = model(ids), foreign.subject.model(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    assert foreign.activation == "relu"
    change(folder, rope_scaling={"type": "longrope"})
    with pytest.raises(DefinitionError, match="rope_scaling"):
        load_foreign(folder, CPU)


def test_documents_end_and_spell_special_tokens_out(tmp_path: Path) -> None:
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tokenizer = ForeignTokenizer(tmp_path / "tokenizer.json", 256)
    first, second = tokenizer.documents(["a</s>b", "c"])
    assert first.tolist()[-1] == 256
    assert len(first) == 7
    assert (first[:-1] < 256).all()
    assert second.tolist()[1:] == [256]
    assert len(ForeignTokenizer(tmp_path / "tokenizer.json", None).documents(["c"])[0]) == 1


def test_saved_truncation_and_padding_are_not_applied(tmp_path: Path) -> None:
    inner = byte_tokenizer()
    inner.enable_truncation(4)
    inner.enable_padding(length=64)
    inner.save(str(tmp_path / "tokenizer.json"))
    assert len(ForeignTokenizer(tmp_path / "tokenizer.json", None).documents(["x" * 20])[0]) == 20


def test_folders_without_a_model(tmp_path: Path, broken: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        load_foreign(tmp_path, CPU)
    (broken / "tokenizer.json").unlink()
    with pytest.raises(NotFoundError, match=r"no tokenizer\.json.*save_pretrained"):
        load_foreign(broken, CPU)
    for path in broken.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(NotFoundError, match="no weights"):
        load_foreign(broken, CPU)


def test_pickles_are_refused_unread(broken: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (broken / "sprung",)

    torch.save({"weight": Trap()}, broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    with pytest.raises(DefinitionError, match=r"pickles.*pytorch_model.*safetensors"):
        load_foreign(broken, CPU)
    assert not (broken / "sprung").exists()


@pytest.mark.parametrize("name", ["../outside/w.safetensors", "w.bin", "/w.safetensors", "..", 3])
def test_weights_elsewhere_are_refused_unread(broken: Path, tmp_path: Path, name: object) -> None:
    (tmp_path / "outside").mkdir()
    shutil.copy(broken / "model.safetensors", tmp_path / "outside" / "w.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DefinitionError, match="in the folder itself only"):
        load_foreign(broken, CPU)


def test_a_shard_that_is_not_there(broken: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(NotFoundError, match="model-00002-of-00002"):
        load_foreign(broken, CPU)


def test_huge_json_is_not_read(broken: Path) -> None:
    with (broken / "config.json").open("r+b") as file:
        file.truncate(2**30)
    with pytest.raises(SparsingError, match=r"config\.json: more than"):
        load_foreign(broken, CPU)


def test_tensors_of_a_pickle_are_read_where_that_is_asked_for(broken: Path) -> None:
    expected = load_foreign(broken, CPU).subject.ffns[0].w_in.weight.detach().clone()
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    with pytest.raises(DefinitionError) as refused:
        load_foreign(broken, CPU)
    assert refused.value.code == "pickled_weights"
    found = load_foreign(broken, CPU, allow_bin=True)
    assert torch.equal(found.subject.ffns[0].w_in.weight, expected)


def test_code_in_an_allowed_pickle_is_not_run(broken: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (broken / "sprung",)

    torch.save({"weight": Trap()}, broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    with pytest.raises(SparsingError):
        load_foreign(broken, CPU, allow_bin=True)
    assert not (broken / "sprung").exists()


def test_one_of_several_gguf_files_has_to_be_said(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(DefinitionError, match=r"a\.gguf, b\.gguf"):
        load_foreign(tmp_path, CPU)
    with pytest.raises(DefinitionError, match="cannot read it"):
        load_foreign(tmp_path / "a.gguf", CPU)


def test_code_of_the_folder_is_not_run(broken: Path) -> None:
    (broken / "modeling_own.py").write_text(f"open({str(broken / 'sprung')!r}, 'w')")
    change(
        broken,
        model_type="own",
        auto_map={"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Own"},
    )
    with pytest.raises(DefinitionError, match="without running code of its own"):
        load_foreign(broken, CPU)
    assert not (broken / "sprung").exists()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"hidden_size": 3}', '{"a":' * 100_000, '{"a":' * 70 + "1" + "}" * 70],
    ids=["cut", "list", "no type", "deep and cut", "deep"],
)
def test_config_that_is_none(broken: Path, content: str) -> None:
    (broken / "config.json").write_text(content)
    with pytest.raises(SparsingError, match=r"config\.json"):
        load_foreign(broken, CPU)


def test_an_unknown_activation_function_is_named(broken: Path) -> None:
    change(broken, hidden_act="sillu")
    with pytest.raises(DefinitionError, match=r"'sillu' is unknown.*hidden_act.*such as silu"):
        load_foreign(broken, CPU)


def test_quantized_weights_are_refused(broken: Path) -> None:
    change(broken, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(DefinitionError, match="quantized"):
        load_foreign(broken, CPU)


def test_missing_weights_are_not_made_up(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SparsingError, match=r"missing.*layers\.1\.mlp\.up_proj"):
        load_foreign(broken, CPU)


def test_weights_of_another_shape(broken: Path) -> None:
    change(broken, intermediate_size=64)
    with pytest.raises(SparsingError, match=r"of another shape: .*mlp\..*not complete"):
        load_foreign(broken, CPU)


def test_layers_that_the_configuration_lacks_are_not_left_out(broken: Path) -> None:
    change(broken, num_hidden_layers=2)
    with pytest.raises(SparsingError, match=r"without model\.layers\.2\.mlp.*configuration"):
        load_foreign(broken, CPU)


def test_weights_that_are_no_numbers(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DefinitionError, match=r"layers\.1.*up_proj.*NaN.*damaged"):
        load_foreign(broken, CPU)


def test_damaged_weights(broken: Path) -> None:
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(SparsingError, match="damaged"):
        load_foreign(broken, CPU)


def test_damaged_tokenizer(broken: Path) -> None:
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(SparsingError, match=r"tokenizer\.json is no tokenizer"):
        load_foreign(broken, CPU)


def test_tokenizer_of_another_model(broken: Path) -> None:
    inner = byte_tokenizer()
    inner.add_tokens(["another"])
    inner.save(str(broken / "tokenizer.json"))
    with pytest.raises(DefinitionError, match="ids up to 257, the model embeds 257"):
        load_foreign(broken, CPU)


def test_a_layer_without_an_ffn_that_is_understood_is_refused(tmp_path: Path) -> None:
    from sparsing.actors.models.hugging_face_ffns import find_ffns

    model = family("Llama")
    mlp = model.model.layers[2].mlp
    mlp.forward = lambda x: mlp.down_proj(torch.sin(mlp.gate_proj(x)) * mlp.up_proj(x))
    with pytest.raises(DefinitionError, match=r"layers\.2 has no FFN.*32 -> 96"):
        find_ffns(model, tmp_path)


def test_an_mlp_that_does_more_is_not_replaced(tmp_path: Path) -> None:
    """What a gated FFN of the same layers would leave out stays in."""
    from sparsing.actors.models.hugging_face_ffns import find_ffns

    model = family("Llama")
    own = type(model.model.layers[0].mlp).forward
    for layer in model.model.layers:
        layer.mlp.forward = lambda x, mlp=layer.mlp: own(mlp, x) + 0.1 * x
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        ffns = find_ffns(model, tmp_path)
        assert torch.equal(model(input_ids=ids).logits, before)
    assert not any(isinstance(ffn, torch.nn.Module) for ffn in ffns)


def test_fatrelu_is_measured_as_it_is(tmp_path: Path) -> None:
    folder = save(family("Llama", hidden_act="relu"), tmp_path / "fat")
    change(folder, hidden_act="fatrelu", hidden_act_param=0.05)
    found = load_foreign(folder, CPU)
    assert found.activation == "fatrelu"
    [sigma] = {type(ffn.sigma) for ffn in found.subject.ffns}
    gate = torch.tensor([-1.0, 0.04, 0.06])
    assert found.subject.ffns[0].sigma(gate).tolist() == pytest.approx([0, 0, 0.06])
    assert sigma is not torch.nn.ReLU
    assert found.subject.gates_are_zero


def test_without_transformers(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DefinitionError, match="pip install transformers"):
        load_foreign(llama, CPU)

"""`sparsing generate`: text of a checkpoint of ours or a Hugging Face model, dense or sparse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sparsing.study.errors import DefinitionError, NotFoundError

if TYPE_CHECKING:
    from sparsing.actors.commands.measure_view import Progress
    from sparsing.actors.measuring.inputs.folders import Model
    from sparsing.actors.models.generate import Generated
    from sparsing.kernels.activity import Rule
    from sparsing.kernels.thresholds import NeuronThresholds


@click.command()
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="Text to go on from.")
@click.option(
    "--tokens", default=64, show_default=True, type=click.IntRange(1), help="Tokens at most."
)
@click.option("--sparse", is_flag=True, help="Leave out neurons whose gate is exactly 0 (ReLU).")
@click.option(
    "--thresholds",
    "thresholds_file",
    metavar="FILE.safetensors",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Leave out neurons below these, which `sparsing measure --thresholds` wrote.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def generate(
    path: Path,
    prompt: str,
    tokens: int,
    sparse: bool,
    thresholds_file: Path | None,
    as_json: bool,
) -> None:
    """Let the model in folder PATH go on from a text, each token the likeliest.

    PATH is what `sparsing measure` takes: a checkpoint of a study (.../checkpoints/RUN/step-N) or
    a Hugging Face causal language model with a gated FFN (safetensors and tokenizer.json). The
    text goes to stdout; tokens per second and the share of active neurons to stderr. With --sparse
    the tokens are those of the dense model.

    \b
    Examples:
      sparsing generate sparsing-store/demo-*/checkpoints/RUN/step-000001172 --prompt "def "
      sparsing generate ./relu-llama --prompt "Once upon a time" --sparse
      sparsing measure ./Qwen2.5-0.5B --data web.jsonl --thresholds qwen.safetensors
      sparsing generate ./Qwen2.5-0.5B --prompt "The sea" --thresholds qwen.safetensors --json
    """
    if sparse and thresholds_file:
        raise click.UsageError("--sparse is without loss, --thresholds with: give one of them")
    from sparsing.actors.commands.measure_view import Progress
    from sparsing.actors.measuring.inputs.folders import load
    from sparsing.actors.models.device import pick_device
    from sparsing.actors.models.generate import active_fraction, decoder_of, greedy, use_sparse
    from sparsing.kernels.activity import StraightforwardRelu

    rules = None if thresholds_file is None else _thresholds(thresholds_file)
    progress = Progress()
    progress.say(f"loading {path}")
    model = load(path, pick_device())
    ids = _prompt(model, prompt, tokens)
    beyond = _tokens_beyond(model, len(ids) + tokens)
    if beyond:
        progress.say(
            f"note: it was trained on sequences of {model.trained_positions} tokens; the last "
            f"{beyond} of these {len(ids) + tokens} lie beyond, where it may write nonsense"
        )
    way = "thresholds" if rules else "sparse" if sparse else "dense"
    used: list[Rule] = []
    if way != "dense":
        used = use_sparse(model.subject, rules)
    elif model.subject.gates_are_zero:
        used = [StraightforwardRelu()] * len(model.subject.ffns)
    device = model.subject.device
    decoder = decoder_of(model.subject)
    found = greedy(decoder, ids, tokens, device, model.ends, progress.forwarded)
    active = active_fraction(model.subject, used, ids, found.tokens) if used else None
    text = _continuation(model, ids, found.tokens)
    if as_json:
        _echo(model, prompt, ids, way, found, active, text, beyond)
        return
    click.echo(text)
    _say(progress, way, found, active)


def _thresholds(file: Path) -> list[NeuronThresholds]:
    from sparsing.kernels.thresholds import load_thresholds

    if not file.is_file():
        raise NotFoundError(f"{file}: no such file")
    try:
        return load_thresholds(file)
    except ValueError as error:
        raise DefinitionError(
            f"{error}; `sparsing measure PATH --thresholds FILE.safetensors` writes one"
        ) from error


def _prompt(model: Model, text: str, tokens: int) -> list[int]:
    ids = model.encode(text)
    if not ids:
        raise click.UsageError("--prompt has no tokens: give some text to go on from")
    if model.max_positions is not None and len(ids) + tokens > model.max_positions:
        raise DefinitionError(
            f"{model.path} was made for {model.max_positions} tokens, not for a prompt of "
            f"{len(ids)} and {tokens} more; shorten the prompt, or give fewer --tokens"
        )
    return ids


def _tokens_beyond(model: Model, tokens: int) -> int:
    """Tokens beyond the longest sequence it was trained on; 0 where that is not known."""
    return max(tokens - model.trained_positions, 0) if model.trained_positions else 0


def _continuation(model: Model, prompt: list[int], tokens: list[int]) -> str:
    """What the tokens add: decoded behind the prompt, as some tokenizers trim a text's start."""
    shown = [t for t in tokens if t not in model.ends]
    before = model.decode(prompt)
    whole = model.decode(prompt + shown)
    return whole[len(before) :] if whole.startswith(before) else model.decode(shown)


def _say(progress: Progress, way: str, found: Generated, active: float | None) -> None:
    from sparsing.actors.measuring.requests.tables import percent

    speed = found.tokens_per_second
    parts = [f"{len(found.tokens)} tokens, {way}"]
    if speed is not None:
        parts.append(f"{speed:.4g} tokens/s")
    parts.append(f"prompt {found.prefill_seconds:.3g} s")
    if active is not None:
        parts.append(f"{percent(active)} of neurons active")
    progress.say("; ".join(parts))


def _echo(
    model: Model,
    prompt: str,
    ids: list[int],
    way: str,
    found: Generated,
    active: float | None,
    text: str,
    beyond: int,
) -> None:
    import torch

    document = {
        "path": str(model.path),
        "prompt": prompt,
        "prompt_tokens": len(ids),
        "text": text,
        "tokens": found.tokens,
        "ended": found.tokens[-1] in model.ends,
        "way": way,
        "trained_positions": model.trained_positions,
        "tokens_beyond_trained_positions": beyond,
        "active_fraction": active,
        "tokens_per_second": found.tokens_per_second,
        "prefill_seconds": found.prefill_seconds,
        "device": str(model.subject.device),
        "threads": torch.get_num_threads(),
    }
    click.echo(json.dumps(document, indent=2, allow_nan=False))

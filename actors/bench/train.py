"""`sparsing bench train`: a shard's tokens per second against plain loops of the same shape."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsing.actors.bench.models import make_llama
from sparsing.actors.bench.save import save_cases
from sparsing.actors.data.prepare import prepare
from sparsing.actors.models.device import pick_device
from sparsing.actors.models.transformer import ModelConfig, Transformer, parameter_groups
from sparsing.actors.training.assignment import Assignment
from sparsing.actors.training.heartbeat import HeartbeatRecorder
from sparsing.actors.training.shard import TrainingShard
from sparsing.actors.training.start import build_shard
from sparsing.study.bench.bench import Case, compare
from sparsing.study.definition.load import load_study
from sparsing.study.definition.model import Axes, Shape, Study
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore

SHAPES = {
    "0.05M, the quickstart's": Shape(d_h=32, layers=4, d_f=80, heads=2),
    "3M": Shape(d_h=256, layers=4, d_f=640, heads=4),
}
BLOCK_SECONDS = 0.4
"""Each repeat times as many steps as take about this long: short, so that both sides of a pair
meet the same machine."""


def cases(repeats: int) -> list[Case]:
    """Each shape: a shard, its fence and heartbeat with it, against plain PyTorch, transformers and
    bare DeepSpeed, and with against without statistics; saving and verifying a checkpoint."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    torch.set_num_threads(1)
    found = []
    for name, shape in SHAPES.items():
        with working_shard(shape) as shard:
            found += _cases_of_shape(name, shard, repeats)
            found += save_cases(name, shard, repeats)
    return found


def _cases_of_shape(name: str, shard: TrainingShard, repeats: int) -> list[Case]:
    steps = _steps_per_block(shard)
    speed = partial(compare, unit="tokens/s", better="higher", repeats=repeats)
    tokens = steps * shard.run.batch_tokens

    def timed(step: Callable[[int], object]) -> Callable[[], float]:
        def block() -> float:
            started = time.perf_counter()
            for index in range(steps):
                step(index)
            return tokens / (time.perf_counter() - started)

        return block

    def watched_step(step: int) -> None:
        shard.train_step(step)
        shard.recorder.stepped()

    ours = timed(_numbered(watched_step))
    plain = timed(PlainLoop(Transformer(shard.config).initialize(0), shard).step)
    rows = [speed(f"shard, {name}", ours, plain, baseline_name="plain PyTorch loop")]
    if find_spec("transformers"):
        llama = timed(PlainLoop(LlamaLoss(shard.config), shard).step)
        rows.append(speed(f"shard, {name}", ours, llama, baseline_name="transformers Llama"))
    bare = timed(BareDeepSpeed(Transformer(shard.config).initialize(0), shard).step)
    rows.append(speed(f"shard, {name}", ours, bare, baseline_name="bare DeepSpeed loop"))
    without = timed(_numbered(shard.compute))
    rows.append(speed(f"statistics, {name}", ours, without, baseline_name="no rows written"))
    return rows


@contextmanager
def working_shard(shape: Shape, batch_sequences: int | None = None) -> Iterator[TrainingShard]:
    """A shard of world size 1 in this process, with store, data and writers, ready to step.

    batch_sequences: of the global batch; None: the default of its size.
    """
    study = load_study("quickstart")
    axes = Axes(activation=["relu"], scale=[shape], seed=[0])
    changes = study.model_dump() | {"axes": axes, "tokens": 10**10}
    if batch_sequences is not None:
        tokens = batch_sequences * study.data.sequence_tokens
        changes["optimization"] = study.optimization.model_copy(update={"batch_tokens": tokens})
    study = Study.model_validate(changes)
    with tempfile.TemporaryDirectory(prefix="sparsing-bench-") as folder:
        store = StudyStore.create(folder, study)
        data = prepare(study, Path(folder) / "data", None)
        assignment = Assignment(
            study_path=str(store.path),
            data_path=str(data.path),
            run=plan_runs(study)[0],
            attempt=1,
            token=0,
            world_size=1,
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with build_shard(assignment, 0, "127.0.0.1", port, HeartbeatRecorder()) as shard:
            yield shard


class LlamaLoss(nn.Module):
    """`transformers`' Llama of the same shape, called as our model is."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.llama = make_llama(config, hidden_act=config.activation, use_cache=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of the next tokens."""
        logits = self.llama(tokens).logits.float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class PlainLoop:
    """The loop that one would write without any of this: same data, AdamW, clipping."""

    def __init__(self, model: Transformer | LlamaLoss, shard: TrainingShard) -> None:
        self.shard = shard
        self.device = pick_device()
        self.model = model.to(self.device)
        if isinstance(model, Transformer):
            groups: list = parameter_groups(model, weight_decay=0.1)
        else:
            groups = list(model.parameters())
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)

    def step(self, index: int) -> float:
        """One optimizer step; returns the loss."""
        count = self.shard.run.batch_sequences
        sequences = torch.from_numpy(self.shard.order.sequences(index * count, count))
        for part in sequences.to(self.device).split(self.shard.engine.micro_sequences):
            loss = self.model(part[:, :-1], part[:, 1:])
            (loss / self.shard.engine.accumulation_steps).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


class BareDeepSpeed:
    """The loop of DeepSpeed's own examples: same model, data, AdamW and clipping.

    World size 1: it exchanges no gradients, for a shard of that size does not either.
    """

    def __init__(self, model: Transformer, shard: TrainingShard) -> None:
        import deepspeed

        self.shard = shard
        groups = parameter_groups(model, weight_decay=0.1)
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True),
            config={
                "train_micro_batch_size_per_gpu": shard.engine.micro_sequences,
                "gradient_accumulation_steps": shard.engine.accumulation_steps,
                "gradient_clipping": 1.0,
                "steps_per_print": 2**31,
            },
        )
        self.engine.enable_backward_allreduce = False

    def step(self, index: int) -> float:
        """One optimizer step; returns the loss."""
        count = self.shard.run.batch_sequences
        sequences = torch.from_numpy(self.shard.order.sequences(index * count, count))
        for part in sequences.to(self.engine.device).split(self.shard.engine.micro_sequences):
            loss = self.engine(part[:, :-1], part[:, 1:])
            self.engine.backward(loss)
            self.engine.step()
        return loss.item()


def _numbered(step: Callable[[int], object]) -> Callable[[int], object]:
    """Steps of a shard are numbered on and on: a repeated one would be a replay to the store."""
    counter = iter(range(10**9))
    return lambda _: step(next(counter))


def _steps_per_block(shard: TrainingShard) -> int:
    started = time.perf_counter()
    for index in range(5):
        shard.compute(index)
    return max(3, round(BLOCK_SECONDS / ((time.perf_counter() - started) / 5)))

"""A DeepSpeed engine for one shard, and its state in a form that no world size is part of.

Weights and Adam moments are read and written parameter by parameter, whole and in float32,
through DeepSpeed's own accessors. A checkpoint therefore loads at any world size and ZeRO stage.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

import torch

# Without these DeepSpeed imports torch.compile's machinery at start-up, which only GPUs use here,
# and warns on stdout that it had to look for a GPU.
if not torch.cuda.is_available():
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

import deepspeed
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from sparsing.actors.models.compiling import compile_layers
from sparsing.actors.models.device import pick_device
from sparsing.actors.models.transformer import Transformer, parameter_groups
from sparsing.study.definition.model import Optimization, Study
from sparsing.study.errors import DefinitionError
from sparsing.study.plan.runs import Run

MOMENTS = ("exp_avg", "exp_avg_sq")


def pick_precision(optimization: Optimization, device: torch.device) -> torch.dtype:
    """Precision of the forward pass; `auto` is bf16 where the device has it.

    Raises:
        DefinitionError: bf16 was asked for on a GPU that lacks it.
    """
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if optimization.precision == "auto":
        return torch.bfloat16 if has_bf16 else torch.float32
    if optimization.precision == "bf16" and device.type == "cuda" and not has_bf16:
        raise DefinitionError(
            "optimization.precision = bf16: this GPU has no bf16; write float32 or auto"
        )
    return torch.bfloat16 if optimization.precision == "bf16" else torch.float32


def pick_zero_stage(optimization: Optimization, device: torch.device, dtype: torch.dtype) -> int:
    """ZeRO stage; `auto` is 1 on GPUs and 0 on CPUs, where sharding costs more than it saves.

    Raises:
        DefinitionError: stage 0 with bf16, which has no float32 master weights to save.
    """
    if optimization.zero_stage == "auto":
        return 0 if device.type == "cpu" and dtype == torch.float32 else 1
    if optimization.zero_stage == 0 and dtype == torch.bfloat16:
        raise DefinitionError("optimization.zero_stage = 0 with bf16: write 1, 2, 3 or auto")
    return optimization.zero_stage


def join_gang(rank: int, world_size: int, address: str, port: int, timeout_seconds: int) -> None:
    """Join the gang's process group: NCCL on GPUs, gloo on CPUs."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK="0",
        WORLD_SIZE=str(world_size),
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
    )
    if not torch.cuda.is_available():
        # This operator is compiled for half a minute at first use and gains nothing with gloo.
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False
    from datetime import timedelta

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(
        backend,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
        auto_mpi_discovery=False,
        verbose=False,
    )


def limit_collectives(timeout_seconds: float) -> None:
    """Let collectives of DeepSpeed fail after this time.

    It reduces gradients in a copy of the world's group, which has torch's 30 minutes whatever was
    given to the world itself; and the copy exists only once an engine does.
    """
    from datetime import timedelta

    from deepspeed.utils import groups
    from torch.distributed.distributed_c10d import _set_pg_timeout

    _set_pg_timeout(timedelta(seconds=timeout_seconds), groups._get_data_parallel_group())


def micro_batch(run: Run, optimization: Optimization, world_size: int) -> tuple[int, int]:
    """(sequences per forward, accumulation steps) of a shard.

    Raises:
        DefinitionError: the shards do not divide the global batch.
    """
    if run.batch_sequences % world_size:
        raise DefinitionError(
            f"resources.shards = {world_size}: does not divide the batch of {run.id}, "
            f"{run.batch_sequences} sequences"
        )
    share = run.batch_sequences // world_size
    limit = min(optimization.micro_batch_sequences, share)
    size = max(d for d in range(1, limit + 1) if share % d == 0)
    return size, share // size


class Engine:
    """A model under DeepSpeed: one optimizer step at a time, state in and out.

    Args:
        model: initialised or loaded, float32, on the CPU.
        study, run: the definition and the run of it.
        world_size: shards of the gang; the process group must exist.
    """

    def __init__(self, model: Transformer, study: Study, run: Run, world_size: int) -> None:
        optimization = study.optimization
        self.device = pick_device()
        self.dtype = pick_precision(optimization, self.device)
        self.zero_stage = pick_zero_stage(optimization, self.device, self.dtype)
        self.micro_sequences, self.accumulation_steps = micro_batch(run, optimization, world_size)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, optimization.weight_decay),
            lr=0.0,
            betas=optimization.betas,
            eps=optimization.epsilon,
            fused=True,
        )
        self.deepspeed, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": self.micro_sequences,
                "gradient_accumulation_steps": self.accumulation_steps,
                "gradient_clipping": 0 if self.zero_stage == 0 else optimization.gradient_clip,
                "zero_optimization": {"stage": self.zero_stage},
                "bf16": {"enabled": self.dtype == torch.bfloat16},
                "steps_per_print": 2**31,
            },
        )
        if self.zero_stage == 0:
            # Here DeepSpeed clips too, but keeps the norm to itself.
            optimizer.register_step_pre_hook(lambda *_: self._clip(optimization.gradient_clip))
        if self.zero_stage == 0 and world_size == 1:
            # Gradients go to no other shard; DeepSpeed would still copy them twice.
            self.deepspeed.enable_backward_allreduce = False
        if self.device.type == "cuda" and self.zero_stage < 3:
            # ZeRO 3's hooks gather weights between a layer's operators, where nothing compiles.
            compile_layers(self.model)
        self._parameters = list(self.model.parameters())
        self._grad_norm: Tensor | None = None
        self._groups = self.deepspeed.optimizer.param_groups
        self._reset_optimizer()

    @property
    def model(self) -> Transformer:
        """The module inside DeepSpeed."""
        return self.deepspeed.module

    @property
    def description(self) -> str:
        """Device, precision and ZeRO stage, for people: `CPU, float32, ZeRO 0`."""
        name = "CPU" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)
        return f"{name}, {str(self.dtype)[6:]}, ZeRO {self.zero_stage}"

    def step(self, sequences: Tensor, learning_rate: float) -> tuple[Tensor, float]:
        """One optimizer step on this shard's share of the global batch.

        Args:
            sequences: int64 (share, tokens + 1).
            learning_rate: of the groups whose factor is 1.

        Returns:
            The shard's mean loss (a scalar on the device) and the global gradient norm.
        """
        for group in self._groups:
            group["lr"] = learning_rate * group["learning_rate_factor"]
        total = torch.zeros((), device=self.device)
        for part in sequences.split(self.micro_sequences):
            part = part.to(self.device, non_blocking=True)
            loss = self.deepspeed(part[:, :-1], part[:, 1:])
            self.deepspeed.backward(loss)
            self.deepspeed.step()
            total += loss.detach()
        norm = self._grad_norm if self.zero_stage == 0 else self.deepspeed.get_global_grad_norm()
        assert norm is not None
        return total / self.accumulation_steps, float(norm)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Whole shape of every parameter, by name, in the order of `state`."""
        # Of a parameter that ZeRO 3 has partitioned only a part is here.
        return {
            name: tuple(getattr(parameter, "ds_shape", parameter.shape))
            for name, parameter in self.model.named_parameters()
        }

    def state(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
        """Tensors of the parameters that are wanted, float32, whole, one at a time.

        Called `weight/<name>`, `exp_avg/<name>` and `exp_avg_sq/<name>`. Collective: every shard
        must go through all of it, whatever it wants.
        """
        self._link_adam_state()
        for name, parameter in self.model.named_parameters():
            for kind, moment in (("weight", None), *((m, m) for m in MOMENTS)):
                value = self._full(parameter, moment)
                if wanted(name):
                    yield f"{kind}/{name}", value.detach().float().cpu()

    def load_state(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Take the state of a checkpoint after `steps` optimizer steps, at any world size.

        Args:
            state: as `state` has written it; each tensor is asked for once, in that order.
            steps: optimizer steps done.
        """
        self._prime()
        self._link_adam_state()
        for name, parameter in self.model.named_parameters():
            self._set_full(parameter, state[f"weight/{name}"], None)
            for moment in MOMENTS:
                self._set_full(parameter, state[f"{moment}/{name}"], moment)
        self._set_adam_steps(steps)

    def _clip(self, max_norm: float) -> None:
        self._grad_norm = clip_grad_norm_(self._parameters, max_norm)

    def _full(self, parameter: Tensor, moment: str | None) -> Tensor:
        if self.zero_stage == 0:
            value = parameter if moment is None else self._adam_state(parameter)[moment]
        elif moment is None:
            value = safe_get_full_fp32_param(parameter)
        else:
            value = safe_get_full_optimizer_state(parameter, moment)
        return value

    def _set_full(self, parameter: Tensor, value: Tensor, moment: str | None) -> None:
        value = value.to(self.device)
        if self.zero_stage == 0:
            target = parameter if moment is None else self._adam_state(parameter)[moment]
            target.data.copy_(value)
        elif moment is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, moment)

    def _adam_state(self, parameter: Tensor) -> dict:
        return self.deepspeed.basic_optimizer.state[parameter]

    def _prime(self) -> None:
        """Make the optimizer's state exist, at any ZeRO stage: a step with zero gradients at
        learning rate 0, which changes no weight."""
        tokens = torch.zeros(self.micro_sequences, 3, dtype=torch.int64, device=self.device)
        for group in self._groups:
            group["lr"] = 0.0
        for _ in range(self.accumulation_steps):
            self.deepspeed.backward(0 * self.deepspeed(tokens[:, :-1], tokens[:, 1:]))
            self.deepspeed.step()

    def _link_adam_state(self) -> None:
        """DeepSpeed's stages 1 and 2 link parameters to Adam's state after the first parameter
        group's first step, when the other groups have none yet; link them again."""
        if hasattr(self.deepspeed.optimizer, "_hp_optimizer_states_linked"):
            self.deepspeed.optimizer._hp_optimizer_states_linked = False
            self.deepspeed.optimizer._lazy_init_hp_params_optimizer_state()

    def _reset_optimizer(self) -> None:
        """Undo the step that DeepSpeed's stage 3 makes while it allocates Adam's state."""
        for state in self.deepspeed.basic_optimizer.state.values():
            for moment in MOMENTS:
                state[moment].zero_()
        self._set_adam_steps(0)

    def _set_adam_steps(self, steps: int) -> None:
        for state in self.deepspeed.basic_optimizer.state.values():
            state["step"] = torch.full_like(torch.as_tensor(state["step"]), steps)

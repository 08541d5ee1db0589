"""How fast a device does what a step asks of it: calculated from its figures, or measured here.

A measured file is written by `sparsing bench train --calibrate`; `sparsing plan --calibration`
reads it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sparsing.study.errors import DefinitionError, NotFoundError
from sparsing.study.guarded_json import JsonProblem, read_json_file
from sparsing.study.plan.accelerators import Accelerator
from sparsing.study.plan.work import StepWork

MATMUL_SHARE = {"A800": 0.75, "A100": 0.75, "H100": 0.65, "H200": 0.68}
"""Of the peak, that large bf16 products reach; under load the clock of an H100 sinks below that of
its peak's figure. Calculated: no GPU of ours has measured it."""
ATTENTION_SHARE = {"A800": 0.55, "A100": 0.55, "H100": 0.35, "H200": 0.35}
"""Of the peak, forward and backward, of FlashAttention-2 (Dao 2023; Shah et al. 2024, figure 1)."""
BANDWIDTH_SHARE = 0.85
LINK_SHARE = 0.75
GPU_STEP_SECONDS = 2e-3
GPU_LAYER_SECONDS = 4e-4
"""A host needs this long to launch a layer's kernels, forward and backward, one by one."""
GPU_PROCESS_BYTES = 2.5e9
GPU_MEMORY_SHARE = 0.94
"""Of the memory, that one may fill before the allocator has no room for what it must move."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of one device, per shard."""

    device: str
    source: str
    """`calculated`, or with what and when it was measured."""
    matmul_flops: float
    """Per second, as all rates below."""
    attention_flops: float
    elementwise_bytes: float
    optimizer_bytes: float
    layer_call_seconds: float
    step_seconds: float
    exchange_bytes: float
    process_bytes: float
    memory_bytes: float
    """That a shard may fill."""
    weight_bytes: int
    """Of a weight in products: 2 for bf16, 4 for float32."""
    host_overlaps: bool
    """Whether layers are launched while the device computes: launching then costs only what it
    takes longer."""
    checkpoint_bytes: float = 1e9
    """Written per second."""
    start_seconds: float = 60.0
    """From the start of a run to its first step."""
    prepare_tokens: float = 1e6
    """Tokens prepared per second and core."""
    peak_flops: float | None = None


def calculated(accelerator: Accelerator) -> Rates:
    """Rates of an accelerator by its maker's figures and the shares above."""
    name, peak = accelerator.name, accelerator.peak_flops
    return Rates(
        device=name,
        source="calculated",
        matmul_flops=peak * MATMUL_SHARE[name],
        attention_flops=peak * ATTENTION_SHARE[name],
        elementwise_bytes=accelerator.bandwidth * BANDWIDTH_SHARE,
        optimizer_bytes=accelerator.bandwidth * BANDWIDTH_SHARE,
        layer_call_seconds=GPU_LAYER_SECONDS,
        step_seconds=GPU_STEP_SECONDS,
        exchange_bytes=accelerator.link * LINK_SHARE,
        process_bytes=GPU_PROCESS_BYTES,
        memory_bytes=accelerator.memory_bytes * GPU_MEMORY_SHARE,
        weight_bytes=2,
        host_overlaps=True,
        peak_flops=peak,
    )


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one optimizer step, by what they are spent on."""

    matmul: float
    attention: float
    elementwise: float
    optimizer: float
    launch: float
    """What launching layers takes beside or beyond the computing."""
    fixed: float
    exchange: float
    """What of the exchange the backward does not hide."""

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return sum(asdict(self).values())


def step_time(work: StepWork, rates: Rates, *, overlapped: bool = False) -> StepTime:
    """How long a step takes; `overlapped`: the exchange goes on during the last backward."""
    matmul = work.matmul_flops / rates.matmul_flops
    attention = work.attention_flops / rates.attention_flops
    elementwise = work.elementwise_bytes / rates.elementwise_bytes
    computing = matmul + attention + elementwise
    launch = work.layer_calls * rates.layer_call_seconds
    exchange = work.exchanged_bytes / rates.exchange_bytes
    if overlapped:
        exchange = max(0.0, exchange - computing / 2)
    return StepTime(
        matmul=matmul,
        attention=attention,
        elementwise=elementwise,
        optimizer=work.optimizer_bytes / rates.optimizer_bytes,
        launch=max(0.0, launch - computing) if rates.host_overlaps else launch,
        fixed=rates.step_seconds,
        exchange=exchange,
    )


def write_rates(rates: Rates, path: Path) -> None:
    """Write a calibration file."""
    path.write_text(json.dumps(asdict(rates), indent=2) + "\n", encoding="utf-8")


def read_rates(path: Path) -> Rates:
    """Rates of a calibration file. Raises NotFoundError, and DefinitionError where it is none."""
    try:
        found = read_json_file(path)
        rates = Rates(**found)
        numbers = [v for v in asdict(rates).values() if isinstance(v, (int, float))]
        if not all(number >= 0 for number in numbers):
            raise ValueError("it has rates below 0")
    except FileNotFoundError as error:
        raise NotFoundError(f"no file {path}") from error
    except (JsonProblem, OSError, TypeError, ValueError) as error:
        raise DefinitionError(
            f"{path} is no calibration file ({error}); `sparsing bench train --calibrate {path}` "
            "writes one"
        ) from error
    return rates

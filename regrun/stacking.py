"""Runs -> stacks: which train together, and how many at once suit the device."""

import functools
import math
import subprocess
from collections.abc import Sequence

from regrun.driver import Stack
from regrun.grouping import structure
from regrun.models.build import build
from regrun.models.dropping import Dropout
from regrun.models.ops import Activation, Op, walk
from regrun.models.parameters import all_slots
from regrun.prepare import Prepared
from regrun.settings import Cnn, Resnet, Torchvision

# On a CPU the stack whose weights, gradients and two moments fill about this much of the last cache level is the
# fastest: at 1.9 MB a replica 8 of them. Of 154 kB, 32 are faster than 64 by 6 %, and a sweep's last stack ends sooner.
CACHE_BYTES = 16 << 20
LARGEST_ON_CPU, LARGEST_ON_GPU = 32, 1024
GPU_SHARE = 0.7  # of the free memory: the rest is for the data set, workspaces and fragmentation


def stacks(runs: Sequence[Prepared], *, workers: int) -> list[Stack]:
    """Runs of one structure and size together, in stacks that suit the device and keep every worker busy."""
    groups: dict[object, Stack] = {}
    for p in runs:
        key = (structure(p.job.settings), id(p.source), p.train_size, p.device.type)
        groups.setdefault(key, []).append(p)
    return [stack for group in groups.values() for stack in _chunks(group, workers)]


def _chunks(group: Stack, workers: int) -> list[Stack]:
    """Stacks of nearly equal size, at most `stack_size`, and at least as many as there are workers."""
    number = max(math.ceil(len(group) / stack_size(group[0])), min(workers, len(group)))
    return [group[i * len(group) // number : (i + 1) * len(group) // number] for i in range(number)]


def stack_size(run: Prepared) -> int:
    """How many replicas of this run a stack should have: what the cache or the GPU holds.

    1 for torchvision's models, and for convolutions on a CPU, which gain nothing.
    """
    settings = run.job.settings
    if isinstance(settings.model, Torchvision):
        return 1
    if settings.sweep.stack_size is not None:
        return settings.sweep.stack_size
    if run.device.type == "cuda":
        free = free_gpu_bytes()
        room = LARGEST_ON_GPU if free is None else int(GPU_SHARE * free) // replica_bytes(run)
        return max(1, min(LARGEST_ON_GPU, room))
    if isinstance(settings.model, Cnn | Resnet):
        return 1
    return max(1, min(LARGEST_ON_CPU, CACHE_BYTES // (4 * parameter_bytes(run))))


def parameter_bytes(run: Prepared) -> int:
    """Bytes of one replica's parameters in float32."""
    return 4 * sum(math.prod(slot.shape) for slot in all_slots(_ops(run)))


def replica_bytes(run: Prepared) -> int:
    """About what one replica needs on a GPU: parameters six times over, activations, indices, labels."""
    width = math.prod(run.source.shape)
    sizes = [op.size for op in walk(_ops(run)) if isinstance(op, Dropout)]
    kinds = 3 + sum(isinstance(op, Activation) for op in walk(_ops(run))) // max(1, len(sizes))
    batch = max(1024, run.job.settings.trainer.batch_size)  # evaluation takes batches of 1,024
    activations = 4 * batch * (2 * width + kinds * sum(sizes))
    examples = 8 * (len(run.source.targets) + 3 * run.train_size)
    return 6 * parameter_bytes(run) + activations + examples


@functools.cache
def free_gpu_bytes() -> int | None:
    """The smallest free memory of all GPUs as nvidia-smi says it; None where there is none.

    torch would say it, too, but only after CUDA is initialized, and then no process can be forked any more.
    """
    query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return min((int(line) << 20 for line in answer.stdout.split() if line.isdigit()), default=None)


def _ops(run: Prepared) -> tuple[Op, ...]:
    settings = run.job.settings
    return build(settings.model, settings.reg, input_shape=run.source.shape, num_classes=run.source.num_outputs)

"""One model on many ranks: who they are, how they share the state, and sums over them.

Three ways to share, which combine. *Replicated*: every rank holds the whole state and gradients are summed. *FSDP2*: ranks
hold a shard of each parameter and gather a layer's when it computes. *Tensor*: ranks compute a part of each matrix product
of a layer. Ranks are laid out as (replicas, shard, tensor), the last fastest, so ranks of one matrix sit in one machine.
Losses and gradients are sums over all ranks, never means: whoever steps divides once by the targets of all of them.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, PrepareModuleInput, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from pipeline.errors import UsageError
from trainer import config
from trainer.attention import Scope
from trainer.model import Block, Decoder, ffn_width

BUCKET = 25_000_000
"""Elements of gradients that are summed over replicas at one time: 100 MB, enough to fill any link."""

KINDS_OF_INPUT = 64
"""For which a block is compiled at most; more would mean that something changes with every batch."""


@dataclass(frozen=True)
class World:
    """All ranks, and this one's place among them.

    Ranks of one `data_rank` (of `data_size`) read the same rows of a batch: they differ in their part of each matrix only.
    `mesh` has the dimensions replicas, shard and tensor; None where there is one rank.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device
    mesh: DeviceMesh | None
    shard: int = 1
    tensor: int = 1
    deterministic: bool = False

    @property
    def data_rank(self) -> int:
        """Which part of a batch is this rank's."""
        return self.rank // self.tensor

    @property
    def data_size(self) -> int:
        """Into how many parts a batch is divided."""
        return self.size // self.tensor


def start(
    device: Literal["auto", "cpu", "cuda"] = "auto",
    options: config.Parallel | None = None,
    deterministic: bool = False,
) -> World:
    """Joins the ranks that torchrun started, or makes a world of one. Call before anything touches a GPU.

    There is a process group always, with gloo for what lies in main memory (checkpoints) and NCCL for GPUs. Raises UsageError
    where the device or the ranks asked for do not exist.
    """
    options = options or config.Parallel()
    rank, size, local_rank = (_variable(name, default) for name, default in _PLACES)
    # A world that cannot be laid out must end before anyone waits for anyone.
    shard = _layout(options, size)
    where = _device(device, local_rank)
    if where.type == "cuda":
        reserve_in_segments()
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses to be deterministic without
        torch.cuda.set_device(where)
        torch.set_float32_matmul_precision("high")  # TF32 for the little that is left in FP32
    if deterministic:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
    backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
    if size == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        return World(0, 1, local_rank, where, None, deterministic=deterministic)
    if "MASTER_ADDR" not in os.environ:
        raise UsageError(f"WORLD_SIZE is {size} but MASTER_ADDR is not set: start several ranks with torchrun")
    dist.init_process_group(backend)
    sizes = (size // (shard * options.tensor), shard, options.tensor)
    mesh = init_device_mesh(where.type, sizes, mesh_dim_names=("replicas", "shard", "tensor"))
    return World(rank, size, local_rank, where, mesh, shard, options.tensor, deterministic)


def reserve_in_segments() -> None:
    """Has PyTorch grow what it holds of a GPU's memory, so that pieces between tensors are not lost. Before the first use."""
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def stop(world: World) -> None:
    """Leaves the world; nothing can be summed or saved after it."""
    if dist.is_initialized():
        dist.destroy_process_group()
    if world.deterministic:
        torch.use_deterministic_algorithms(False)


def compiles(options: config.Parallel, device: torch.device) -> bool:
    """Whether blocks and the loss are compiled."""
    return device.type == "cuda" if options.compile is None else options.compile


def prepare(model: Decoder, options: config.Parallel, world: World) -> Decoder:
    """Lays a model that is on the meta device out over the ranks, and gives it memory; call `initialise` or load next.

    The order matters: matrices are divided first, then activations are set to be recomputed, then each block is compiled,
    and what is compiled is sharded. A world of one rank is not wrapped at all. Raises ConfigError where the model cannot be
    divided as asked.
    """
    blocks = list(model.model.layers)
    if world.tensor > 1:
        _divide(model, world)
    if options.checkpoint_activations != "none":
        for block in blocks:
            block.__class__ = _KeepsSome if options.checkpoint_activations == "selective" else _KeepsNothing
    if compiles(options, world.device):
        # PyTorch raises after 8 kinds of input, unless told: phases, looks at held-out text (without gradient) and numbers
        # of documents each come in a few.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, KINDS_OF_INPUT)
        for block in blocks:
            block.compile(fullgraph=True, dynamic=False)
    if world.shard > 1:
        _shard(model, world)
    model.to_empty(device=world.device)
    return model


def reduce_gradients(model: nn.Module, world: World) -> None:
    """Sums the gradients over the ranks, once a step after the last micro-batch. FSDP2 has done its part already."""
    if world.mesh is None:
        return
    if world.tensor > 1:
        # The norms of queries and keys are whole on each rank but have seen its heads only.
        parts = [p.grad for name, p in model.named_parameters() if _of_own_heads(name) and p.grad is not None]
        _sum_all(parts, world.mesh.get_group("tensor"))
    if world.shard == 1 and world.data_size > 1:
        _sum_all([p.grad for p in model.parameters() if p.grad is not None], world.mesh.get_group("replicas"))


def gradient_norm(model: nn.Module, world: World) -> Tensor:
    """The L2 norm of all gradients (FP32 scalar on the device, the same on all ranks); 0 where there are none.

    In a deterministic world the norms of whole parameters are added in their order, so that the result does not depend on
    how they are sharded; that gathers every gradient.
    """
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if world.deterministic:
        norms = [_whole(g).float().norm() for g in grads]
        return torch.stack(norms).norm() if norms else torch.zeros((), device=world.device)
    kinds: dict[tuple[str, ...], list[Tensor]] = {}
    for grad in grads:
        kinds.setdefault(_spread_over(grad), []).append(_local(grad).float())
    total = torch.zeros((), device=world.device)
    for spread in sorted(kinds):
        part = torch.stack(torch._foreach_norm(kinds[spread])).square().sum()
        if world.mesh is not None:
            for name in spread:
                dist.all_reduce(part, group=world.mesh.get_group(name))
        total += part
    return total.sqrt()


def scale_gradients(model: nn.Module, by: Tensor) -> None:
    """Multiplies all gradients by a scalar on the device: the division by the number of targets and the clipping."""
    grads = [_local(p.grad) for p in model.parameters() if p.grad is not None]
    if grads:
        torch._foreach_mul_(grads, by)


def sum_over_ranks(tensor: Tensor, world: World) -> Tensor:
    """The tensor, summed in place over all that read different rows, and the same on all ranks to the bit. Ranks that read
    the same rows count once: of floats their mean, so a 1 on any of them is above 0 on all; integers must be equal there."""
    if world.mesh is not None:
        dist.all_reduce(tensor)
        if world.tensor > 1:
            tensor.div_(world.tensor, rounding_mode=None if tensor.is_floating_point() else "floor")
    return tensor


_PLACES = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise UsageError(f"the environment variable {name} is {text!r}, not a number: start ranks with torchrun")
    return int(text)


def _layout(options: config.Parallel, size: int) -> int:
    """How many ranks share a state, once `tensor` ranks share each matrix."""
    if options.tensor < 1 or size % options.tensor:
        raise config.ConfigError(f"parallel.tensor ({options.tensor}) must divide the number of ranks ({size})")
    data = size // options.tensor
    shard = options.shard or data
    if shard < 1 or data % shard:
        raise config.ConfigError(
            f"parallel.shard ({options.shard}) must divide the ranks that read different rows ({data}), or be 0 for all"
        )
    return shard


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError('device is cuda, but PyTorch sees no GPU: use device = "cpu", or install PyTorch for CUDA')
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UsageError(
            f"rank {local_rank} of this machine has no GPU of its own: there are {count}; start {count} ranks"
        )
    return torch.device("cuda", local_rank)


class _KeepsNothing(Block):
    """A block that forgets its activations and computes them again in the backward pass (Chen et al. 2016,
    arXiv:1604.06174). It takes the place of a block's class: no name of a parameter changes."""

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], within: Scope) -> Tensor:
        """x (B, T, D) to the same."""
        return checkpoint(super().forward, x, turn, within, use_reentrant=False, preserve_rng_state=False)


class _KeepsSome(Block):
    """As before, but what is dear to compute is kept."""

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], within: Scope) -> Tensor:
        """x (B, T, D) to the same."""
        return checkpoint(
            super().forward, x, turn, within, use_reentrant=False, preserve_rng_state=False, context_fn=_keep_some
        )


def _keep_some() -> Any:
    """What is kept by `selective`: the result of attention and of every second matrix product, as torchtitan does. The last
    product of a block is not among them: nothing in the block reads it."""
    seen = {False: 0, True: 0}

    def policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if op is torch.ops.aten.mm.default:
            seen[ctx.is_recompute] += 1
            if seen[ctx.is_recompute] % 2 == 0:
                return CheckpointPolicy.MUST_SAVE
        elif "attention" in op.__name__ or "attn" in op.__name__:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def _divide(model: Decoder, world: World) -> None:
    """Tensor parallelism: the matrices into a layer's parts by rows, those out of them by columns (Shoeybi et al. 2019,
    arXiv:1909.08053). Embedding and head stay whole: their work is done by every rank of a matrix."""
    sizes = {
        "model.heads": model.shape.heads,
        "model.kv_heads": model.shape.kv_heads,
        "the feed-forward's width": ffn_width(model.shape),
    }
    for name, size in sizes.items():
        if size % world.tensor:
            raise config.ConfigError(f"{name} ({size}) must be a multiple of parallel.tensor ({world.tensor})")
    mesh = _mesh(world)["tensor"]
    whole = Replicate()
    for block in model.model.layers:
        parallelize_module(
            block,
            mesh,
            {
                # Once for three matrices, so that the backward pass sums over ranks once.
                "self_attn": PrepareModuleInput(
                    input_layouts=(whole, None, None), desired_input_layouts=(whole, None, None)
                ),
                "self_attn.q_proj": ColwiseParallel(),
                "self_attn.k_proj": ColwiseParallel(),
                "self_attn.v_proj": ColwiseParallel(),
                "self_attn.o_proj": RowwiseParallel(),
                "mlp": PrepareModuleInput(input_layouts=(whole,), desired_input_layouts=(whole,)),
                "mlp.gate_proj": ColwiseParallel(),
                "mlp.up_proj": ColwiseParallel(),
                "mlp.down_proj": RowwiseParallel(),
            },
        )


def _shard(model: Decoder, world: World) -> None:
    """FSDP2 over each block and the rest. A block's parameters travel in the type that it computes in; embedding, head and
    last norm in FP32, because a gradient of theirs is a sum over the tokens of a batch, which BF16 would spoil."""
    mesh = _mesh(world)
    data = mesh["replicas", "shard"] if mesh["replicas"].size() > 1 else mesh["shard"]
    full = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    lean = MixedPrecisionPolicy(param_dtype=model.dtype, reduce_dtype=torch.float32)
    for block in model.model.layers:
        fully_shard(block, mesh=data, mp_policy=lean)
    fully_shard(model, mesh=data, mp_policy=full)
    for module in (*model.model.layers, model):
        module.set_gradient_divide_factor(1.0)  # sums, not means
        module.set_force_sum_reduction_for_comms(True)  # NCCL's scaled sum is no kind of reduction that gloo knows


def _mesh(world: World) -> DeviceMesh:
    if world.mesh is None:
        raise ValueError("a world of one rank has no mesh")
    return world.mesh


def _of_own_heads(name: str) -> bool:
    return name.endswith(("q_norm.weight", "k_norm.weight"))


def _local(tensor: Tensor) -> Tensor:
    """What of it lies on this rank; shares memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _spread_over(tensor: Tensor) -> tuple[str, ...]:
    """The dimensions of the mesh over which its elements are divided."""
    if not isinstance(tensor, DTensor):
        return ()
    names = tensor.device_mesh.mesh_dim_names or ()
    # Not `is_shard`: a part of a part (FSDP2 over a divided matrix) is none in its eyes.
    return tuple(name for name, place in zip(names, tensor.placements, strict=True) if not place.is_replicate())


def _sum_all(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> None:
    """Sums tensors in place over a group, many at a time."""
    for bucket in _buckets([_local(tensor) for tensor in tensors]):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        dist.all_reduce(flat, group=group)
        parts = flat.split([tensor.numel() for tensor in bucket])
        torch._foreach_copy_(bucket, [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)])


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket

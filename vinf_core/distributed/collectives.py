"""What ranks tell each other apart from frames: sums, equal parts, whole lists of tensors, heads against tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import torch
import torch.distributed as dist

from vinf_core.distributed.topology import Topology
from vinf_core.errors import ConfigError
from vinf_core.events import StageClock
from vinf_core.types import Stage

_DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
"""What can travel in a list whose receiver does not know the dtypes; by their place here."""


class Collectives:
    """Moves tensors between the ranks of a group; inert in a world of one."""

    def __init__(self, topology: Topology, group: dist.ProcessGroup | None, clock: StageClock) -> None:
        self._topology = topology
        self._group = group if topology.world_size > 1 else None
        self._clock = clock
        self.reduction_count = 0
        """All-reduces so far."""
        self.transfer_count = 0
        """Gathers, shares, hand-overs and swaps so far."""
        self.received_bytes = 0
        """Bytes received so far, without those of all-reduces."""

    @property
    def topology(self) -> Topology:
        """This rank in the world that it talks to."""
        return self._topology

    @property
    def clock(self) -> StageClock:
        """Credits the time."""
        return self._clock

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self._topology.device

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add ``values`` up over all ranks, in place; the result is the same on every rank."""
        self.reduction_count += 1
        if self._group is not None:
            with self._clock.measure(Stage.COMMUNICATE, "reduce"):
                dist.all_reduce(values, op=dist.ReduceOp.SUM, group=self._group)
        return values

    def barrier(self) -> None:
        """Wait for every rank; sets up the communicator as a side effect, so that no timed step pays for it."""
        self.sum(torch.zeros(1, device=self._topology.device))

    def gather(self, own: torch.Tensor) -> list[torch.Tensor]:
        """Collect one tensor of every rank, in rank order, on every rank.

        Args:
            own: of the same shape and dtype on every rank.
        """
        self.transfer_count += 1
        if self._group is None:
            return [own]
        with self._clock.measure(Stage.COMMUNICATE, "gather"):
            own = own.contiguous()
            parts = [torch.empty_like(own) for _ in range(self._topology.world_size)]
            dist.all_gather(parts, own, group=self._group)
        self.received_bytes += _bytes(parts) - _bytes([own])
        return parts

    def share(self, tensors: Sequence[torch.Tensor] | None) -> tuple[torch.Tensor, ...]:
        """Give rank 0's tensors to every rank; shapes and dtypes travel first.

        Args:
            tensors: on rank 0 what it shares, on this rank's device; None elsewhere.
        """
        self.transfer_count += 1
        if self._group is None:
            return tuple(tensors or ())
        with self._clock.measure(Stage.COMMUNICATE, "share"):
            own = [tensor.contiguous() for tensor in tensors or ()]
            header = self._header(own)
            length = torch.tensor([len(header)], device=self.device)
            dist.broadcast(length, group_src=0, group=self._group)
            if self._topology.rank:
                header = torch.empty(int(length), dtype=torch.int64, device=self.device)
            dist.broadcast(header, group_src=0, group=self._group)
            if self._topology.rank:
                own = self._buffers(header)
                self.received_bytes += _bytes(own)
            for tensor in own:
                if tensor.numel():
                    dist.broadcast(tensor, group_src=0, group=self._group)
        return tuple(own)

    def pass_on(self, tensors: Sequence[torch.Tensor], to: int) -> None:
        """Hand tensors of any shapes to another rank, which calls `take_over`; returns when they may be written to.

        Args:
            tensors: on this rank's device.
            to: the other rank.
        """
        self.transfer_count += 1
        with self._clock.measure(Stage.COMMUNICATE, "pass on"):
            own = [tensor.contiguous() for tensor in tensors]
            header = self._header(own)
            for message in ([torch.tensor([len(header)], device=self.device)], [header], own):
                self._trade([(to, tensor) for tensor in message], [])

    def take_over(self, source: int) -> tuple[torch.Tensor, ...]:
        """Wait for what another rank passes on to this one.

        Args:
            source: the other rank.
        """
        self.transfer_count += 1
        with self._clock.measure(Stage.COMMUNICATE, "take over"):
            length = torch.empty(1, dtype=torch.int64, device=self.device)
            self._trade([], [(source, length)])
            header = torch.empty(int(length), dtype=torch.int64, device=self.device)
            self._trade([], [(source, header)])
            tensors = self._buffers(header)
            self._trade([], [(source, tensor) for tensor in tensors])
        self.received_bytes += _bytes(tensors)
        return tuple(tensors)

    def swap_heads(self, own: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Give up tokens' other heads for the other tokens of one's own heads: Ulysses' first all-to-all.

        DeepSpeed Ulysses, arXiv 2309.14509. Rank r of c gets heads ``[r * H / c, (r + 1) * H / c)``.

        Args:
            own: ``[B, counts[rank], H, d]``: this rank's tokens.
            counts: tokens of every rank, in rank order; any may be 0.

        Returns:
            ``[B, sum(counts), H / c, d]``: the tokens of all ranks, in rank order.

        Raises:
            ConfigError: the heads cannot be divided evenly.
        """
        self.transfer_count += 1
        if self._group is None:
            return own
        batch, _, heads, dim = own.shape
        check_heads(heads, self._topology.world_size)
        with self._clock.measure(Stage.COMMUNICATE, "swap heads"):
            parts = [part.contiguous() for part in own.tensor_split(self._topology.world_size, dim=2)]
            buffers = [own.new_empty(batch, count, parts[0].shape[2], dim) for count in counts]
            self._all_to_all(parts, buffers)
            return torch.cat(buffers, dim=1)

    def swap_tokens(self, own: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Give the other ranks their tokens back for the other heads of one's own tokens: the inverse of `swap_heads`.

        Args:
            own: ``[B, sum(counts), H / c, d]``: the tokens of all ranks, in rank order.
            counts: tokens of every rank, in rank order.

        Returns:
            ``[B, counts[rank], H, d]``: this rank's tokens.
        """
        self.transfer_count += 1
        if self._group is None:
            return own
        batch, _, heads, dim = own.shape
        with self._clock.measure(Stage.COMMUNICATE, "swap tokens"):
            parts = [own[:, start:stop].contiguous() for start, stop in pairwise(accumulate(counts, initial=0))]
            buffers = [own.new_empty(batch, counts[self._topology.rank], heads, dim) for _ in counts]
            self._all_to_all(parts, buffers)
            return torch.cat(buffers, dim=2)

    def _all_to_all(self, parts: Sequence[torch.Tensor], buffers: list[torch.Tensor]) -> None:
        """Send part p to rank p, and receive buffer p from it; one's own part is put in its place."""
        peers = [peer for peer in range(self._topology.world_size) if peer != self._topology.rank]
        self._trade([(peer, parts[peer]) for peer in peers], [(peer, buffers[peer]) for peer in peers])
        buffers[self._topology.rank] = parts[self._topology.rank]
        self.received_bytes += _bytes(buffers[peer] for peer in peers)

    def _trade(self, sends: Iterable[tuple[int, torch.Tensor]], receives: Iterable[tuple[int, torch.Tensor]]) -> None:
        """Do sends and receives all at once (NCCL groups them), and wait for them; an empty tensor does not travel."""
        operations = [
            dist.P2POp(operation, tensor, group=self._group, group_peer=peer)
            for operation, messages in ((dist.isend, sends), (dist.irecv, receives))
            for peer, tensor in messages
            if tensor.numel()
        ]
        for work in dist.batch_isend_irecv(operations) if operations else ():
            work.wait()

    def _header(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Of every tensor its dtype, its number of axes and its shape, one after the other, as int64."""
        numbers = [n for tensor in tensors for n in (_DTYPES.index(tensor.dtype), tensor.ndim, *tensor.shape)]
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    def _buffers(self, header: torch.Tensor) -> list[torch.Tensor]:
        """Make room for the tensors that a header describes."""
        numbers = iter(header.tolist())
        buffers = []
        for dtype in numbers:
            shape = [next(numbers) for _ in range(next(numbers))]
            buffers.append(torch.empty(shape, dtype=_DTYPES[dtype], device=self.device))
        return buffers


def check_heads(heads: int, ranks: int) -> None:
    """Check that attention heads can be divided over ranks.

    Raises:
        ConfigError: they cannot.
    """
    if heads % ranks:
        allowed = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
        raise ConfigError(
            f"context-ranks: {ranks} does not divide the model's {heads} attention heads; allowed: {allowed}"
        )


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

"""Training by several one-thread processes, which on few cores beats one process of several threads.

The operations of so small a model are too short to be shared out among threads; whole batches are not.
Started by torchrun, every process takes its share of each batch and the gradients are averaged. Started
alone, a process is a team of one.
"""

import os
from dataclasses import dataclass

import torch
from torch import distributed, nn  # noqa: TID251 (training stands outside the engine and its groups)


@dataclass(frozen=True)
class Team:
    """This process's place among those that train together."""

    rank: int
    size: int

    @classmethod
    def join(cls) -> "Team":
        """Join the group that torchrun's environment names, if any."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(0, 1)
        distributed.init_process_group("gloo")
        return cls(distributed.get_rank(), size)

    @property
    def leads(self) -> bool:
        """Whether this process prints, saves and exports."""
        return self.rank == 0

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace the gradients by their mean over the team (all must have the same ones)."""
        if self.size == 1:
            return
        with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in with_gradient if p.grad is not None])
        distributed.all_reduce(flat)
        flat /= self.size
        for parameter, part in zip(with_gradient, torch.split(flat, [p.numel() for p in with_gradient]), strict=True):
            parameter.grad = part.view_as(parameter)

    def share_weights(self, module: nn.Module) -> None:
        """Give every process the leader's weights."""
        if self.size > 1:
            for tensor in [*module.parameters(), *module.buffers()]:
                distributed.broadcast(tensor.data, 0)

    def wait(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            distributed.barrier()

    def leave(self) -> None:
        """Close the group."""
        if self.size > 1:
            distributed.destroy_process_group()

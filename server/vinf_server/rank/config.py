"""What the front and torchrun tell a rank, read once from the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from vinf_core.distributed.topology import Mesh
from vinf_core.engine.balance import AskedWeights
from vinf_core.engine.memory import MemoryModel
from vinf_core.errors import ConfigError
from vinf_core.models.locate import ModelSource
from vinf_server.link_security import LinkSecurity

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class RankConfig:
    """One rank's orders for life."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    link: str
    """gRPC address of the front's engine link, for example ``unix:/run/vinf/link``."""
    link_security: LinkSecurity
    """What it shows there, when that is on another host."""
    epoch: int
    """The launch this rank belongs to; the front drops what comes from an earlier one."""
    model: ModelSource
    model_options: dict[str, str]
    device: str
    dtype: torch.dtype
    deterministic: bool
    mesh: Mesh
    """How the ranks of all hosts are laid out."""
    rank_weights: AskedWeights
    """What the clips' lengths go by."""
    memory_budget: int
    """Bytes that this rank may hold; 0: what its device has."""
    known_memory: MemoryModel | None
    """What an earlier group of the same front measured on the same devices; None: it is still to be measured."""
    skip_negligible: bool
    """Leave out context that a phase damps to nearly nothing."""
    failure_file: Path | None
    """Where a mistake in the configuration is explained before the rank exits."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> RankConfig:
        """Read torchrun's variables and the front's ``VINF_*``.

        Raises:
            ConfigError: one is missing or makes no sense; the rank was not started by the front.
        """
        try:
            dtype = environment.get("VINF_DTYPE", "float32")
            if dtype not in DTYPES:
                raise ConfigError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
            failure_file = environment.get("VINF_FAILURE_FILE")
            return cls(
                rank=int(environment["RANK"]),
                world_size=int(environment["WORLD_SIZE"]),
                local_rank=int(environment["LOCAL_RANK"]),
                local_world_size=int(environment["LOCAL_WORLD_SIZE"]),
                link=environment["VINF_LINK"],
                link_security=LinkSecurity.from_environment(environment),
                epoch=int(environment["VINF_EPOCH"]),
                # The front has downloaded what was missing, once for all ranks of its host.
                model=ModelSource(
                    model=environment["VINF_MODEL"],
                    base=environment.get("VINF_MODEL_BASE", ""),
                    revision=environment.get("VINF_MODEL_REVISION", ""),
                    offline=True,
                ),
                model_options=json.loads(environment.get("VINF_MODEL_OPTIONS", "{}")),
                device=environment.get("VINF_DEVICE", "auto"),
                dtype=DTYPES[dtype],
                deterministic=environment.get("VINF_DETERMINISTIC", "0") == "1",
                mesh=Mesh(
                    cfg=int(environment.get("VINF_CFG_RANKS", "1")),
                    context=int(environment.get("VINF_CONTEXT_RANKS", "1")),
                ),
                rank_weights=_read_weights(environment.get("VINF_RANK_WEIGHTS", "auto")),
                memory_budget=int(environment.get("VINF_MEMORY_BUDGET", "0")),
                known_memory=_read_memory(environment.get("VINF_KNOWN_MEMORY", "")),
                skip_negligible=environment.get("VINF_SKIP_NEGLIGIBLE", "0") == "1",
                failure_file=Path(failure_file) if failure_file else None,
            )
        except KeyError as missing:
            raise ConfigError(f"{missing.args[0]} is not set: ranks are started by `vinf serve`") from missing


def _read_memory(text: str) -> MemoryModel | None:
    """Read the numbers of an earlier group, as JSON; none when there was none."""
    return MemoryModel(**json.loads(text)) if text else None


def _read_weights(text: str) -> AskedWeights:
    """Read what the front has checked: ``auto``, ``measured``, ``even``, or one number a rank."""
    if text == "auto":
        return "auto"
    if text == "measured":
        return "measured"
    if text == "even":
        return "even"
    return tuple(float(weight) for weight in text.split(","))

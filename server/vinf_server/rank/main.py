"""A rank's life: link, model, groups, ready, serve, leave."""

from __future__ import annotations

import json
import logging
import os
import sys

import torch

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import process_groups
from vinf_core.distributed.topology import Topology, select_device
from vinf_core.engine.generator import Generator
from vinf_core.engine.worker import Worker
from vinf_core.errors import ConfigError, ModelNotFoundError
from vinf_core.events import StageClock
from vinf_core.models.registry import load_model
from vinf_server.rank.beats import Heart
from vinf_server.rank.config import RankConfig
from vinf_server.rank.convert import limits_to_proto
from vinf_server.rank.coordinator import LinkCoordinator
from vinf_server.rank.frames import FrameSender
from vinf_server.rank.link import Link

EXIT_CONFIGURATION = 3
"""The front does not try again after this one: the same mistake would only be made again."""

logger = logging.getLogger(__name__)


def main() -> None:
    """Run one rank to its end; never returns.

    Ranks are crash-only: on any error the process ends at once, without a collective and without waiting for threads,
    and the front starts the group anew.
    """
    rank = os.environ.get("RANK", "?")
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s rank {rank} %(levelname)s %(name)s: %(message)s")
    code = 1
    try:
        config = RankConfig.from_environment(os.environ)
        code = run(config)
    except Exception:
        logger.exception("the rank fails")
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


def run(config: RankConfig) -> int:
    """Serve until the front says stop; return the exit code."""
    link = Link(config.link, config.epoch)
    heart = Heart(link, config.rank)
    heart.start()
    try:
        device = select_device(config.device, config.local_rank, config.local_world_size)
        prepare(device, config.deterministic)
        model = load_model(config.model, device, config.dtype)
    except (ConfigError, ModelNotFoundError) as error:
        explain(config, error)
        return EXIT_CONFIGURATION
    topology = Topology(rank=config.rank, world_size=config.world_size, device=device)
    clock = StageClock(device)
    with process_groups(topology) as groups:
        exchange = Exchange(topology, groups.data, clock)
        control = ControlPlane(topology, groups.control)
        generator = Generator(model, topology, exchange, clock)
        generator.warm_up()

        def fill(beat: pb.BeatRequest) -> None:
            beat.progress_count = control.round_count + exchange.exchange_count + exchange.reduction_count
            beat.busy_seconds.update({stage.value: seconds for stage, seconds in clock.seconds.items()})
            beat.frame_count = generator.decoded_frames

        heart.describe(device, fill)
        coordinator = None
        if topology.is_coordinator:
            coordinator = LinkCoordinator(link)
            limits = limits_to_proto(model.limits)
            coordinator.attach(pb.ReadyReport(world_size=topology.world_size, model=limits))
        Worker(generator, control, lambda gid: FrameSender(link, config.rank, gid), coordinator).serve()
        link.leave()
        heart.stop()
        if coordinator:
            coordinator.detach()
    return 0


def prepare(device: torch.device, deterministic: bool) -> None:
    """Set up torch for inference on this device."""
    torch.set_grad_enabled(False)
    if deterministic:
        # Read when CUDA's BLAS is first used, so in time here.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = not deterministic
        torch.backends.cudnn.allow_tf32 = not deterministic


def explain(config: RankConfig, error: Exception) -> None:
    """Tell the operator what is wrong with the configuration, through the front."""
    reason = "MODEL_NOT_FOUND" if isinstance(error, ModelNotFoundError) else "CONFIGURATION"
    logger.error("%s", error)
    if config.failure_file:
        # Every rank makes the same mistake at the same time: whoever renames last wins, nobody reads half a file.
        unfinished = config.failure_file.with_name(f"{config.failure_file.name}.{config.rank}")
        unfinished.write_text(json.dumps({"reason": reason, "message": str(error)}))
        unfinished.replace(config.failure_file)

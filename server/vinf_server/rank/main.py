"""A rank's life: link, model, groups, ready, serve, leave."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import time

import torch

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.distributed.axes import Axes
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.groups import process_groups
from vinf_core.distributed.topology import Topology, select_device
from vinf_core.engine.balance import largest_clip_share, settle_weights
from vinf_core.engine.generator import Generator
from vinf_core.engine.mesh_checks import check_mesh
from vinf_core.engine.probe import default_budget, measure_memory
from vinf_core.engine.worker import Worker
from vinf_core.errors import ConfigError, ModelNotFoundError
from vinf_core.events import StageClock
from vinf_core.models.adapter import VideoModel
from vinf_core.models.loading import quiet_libraries
from vinf_core.models.registry import load_model
from vinf_server.logs import FORMAT_VARIABLE, configure_logs
from vinf_server.rank.beats import Heart, Tally, device_name
from vinf_server.rank.checkpoints import LinkCheckpoints
from vinf_server.rank.config import RankConfig
from vinf_server.rank.convert import limits_to_proto, memory_to_proto
from vinf_server.rank.coordinator import LinkCoordinator
from vinf_server.rank.frames import FrameSender
from vinf_server.rank.link import Link
from vinf_server.rank.previews import LinkPreviews
from vinf_server.rank.statistics import Statistics
from vinf_server.rank.trace import LinkTrace

EXIT_CONFIGURATION = 3
"""The front does not try again after this one: the same mistake would only be made again."""

EXIT_OUT_OF_MEMORY = 4
"""The generation was too large; the group starts anew and the loss is not held against it."""

_FLAGS = ("ranks", "cfg-ranks", "context-ranks", "memory budget", "model", "model option")
"""Fields of the engine's configuration that are flags of the server."""

_PEER_S = 0.2
"""How long a rank that fails waits to be ended.

When a rank is killed, the next collective of the others fails within a moment, and the agent, which looks ten times a
second, names whichever dead rank it finds first. It must find the one that was killed.
"""

logger = logging.getLogger(__name__)


def main() -> None:
    """Run one rank to its end; returns only when it was told to leave.

    Ranks are crash-only: on any error the process ends, without a collective and without waiting for threads,
    and the front starts the group anew.
    """
    rank = os.environ.get("RANK", "?")
    if os.environ.get(FORMAT_VARIABLE) == "json":
        # Neither number is known to be one before the configuration is read.
        configure_logs("json", "rank", rank=_number(rank), epoch=_number(os.environ.get("VINF_EPOCH", "?")))
    else:
        logging.basicConfig(level=logging.INFO, format=f"%(asctime)s rank {rank} %(levelname)s %(name)s: %(message)s")
    # The front asks a rank that hangs where it does, before it kills it.
    faulthandler.register(signal.SIGUSR1)
    code = 1
    try:
        config = RankConfig.from_environment(os.environ)
        code = run(config)
    except Exception as error:
        logger.exception("the rank fails")
        if is_out_of_memory(error):
            explain(config, "GPU_OUT_OF_MEMORY", str(error).partition("\n")[0])
            code = EXIT_OUT_OF_MEMORY
        else:
            time.sleep(_PEER_S)
    logging.shutdown()
    sys.stderr.flush()
    if code:
        os._exit(code)


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def run(config: RankConfig) -> int:
    """Serve until the front says stop; return the exit code."""
    link = Link(config.link, config.epoch, config.link_security)
    heart = Heart(link, config.rank)
    heart.start()
    try:
        device = select_device(config.device, config.local_rank, config.local_world_size)
        prepare(device, config.deterministic)
        topology = Topology(rank=config.rank, world_size=config.world_size, device=device, mesh=config.mesh)
        quiet_libraries()
        logger.info("loads %s", config.model.model)
        model = load_model(config.model, options=config.model_options, device=device, dtype=config.dtype)
        check_mesh(model, config.mesh)
        load_text_encoder(model, config.rank)
    except (ConfigError, ModelNotFoundError) as error:
        explain(config, "MODEL_NOT_FOUND" if isinstance(error, ModelNotFoundError) else "CONFIGURATION", str(error))
        return EXIT_CONFIGURATION
    clock = StageClock(device)
    with process_groups(topology) as groups:
        axes = Axes.build(topology, groups, clock)
        control = ControlPlane(topology, groups.control)
        generator = Generator(
            model,
            topology,
            axes,
            clock,
            skip_negligible=config.skip_negligible,
            deterministic=config.deterministic,
        )
        generator.warm_up()
        rank_weights = settle_weights(config.rank_weights, device_name=device_name(device), control=control)
        try:
            # A group that takes the place of another one knows what that one measured.
            memory = generator.memory = config.known_memory or measure_memory(
                generator,
                control,
                budget_bytes=config.memory_budget or default_budget(device, config.local_world_size),
                largest_clip_share=largest_clip_share(rank_weights, topology.world_size, topology.mesh),
            )
        except (ConfigError, ModelNotFoundError) as error:
            explain(config, "MODEL_NOT_FOUND" if isinstance(error, ModelNotFoundError) else "CONFIGURATION", str(error))
            return EXIT_CONFIGURATION

        fetched = Tally()

        heart.describe(device, Statistics(control, axes, generator, clock, fetched).fill)
        coordinator = None
        if topology.is_coordinator:
            coordinator = LinkCoordinator(link)
            coordinator.attach(
                pb.ReadyReport(
                    world_size=topology.world_size,
                    model=limits_to_proto(model.limits),
                    memory=memory_to_proto(memory),
                )
            )
        Worker(
            generator,
            control,
            lambda generation_id: FrameSender(link, config.rank, generation_id, clock.recorder),
            coordinator,
            open_checkpoints=lambda generation_id: LinkCheckpoints(
                link, config.rank, generation_id, on_fetched=fetched.add
            ),
            open_previews=lambda generation_id: LinkPreviews(link, config.rank, generation_id),
            open_trace=lambda generation_id, recorder: LinkTrace(link, config.rank, generation_id, recorder),
            rank_weights=rank_weights,
        ).serve()
        link.leave()
        heart.stop()
        if coordinator:
            coordinator.detach()
    return 0


def load_text_encoder(model: VideoModel, rank: int) -> None:
    """Encode a text where rank 0 does so for all: loading its encoder from a cold disk may take minutes.

    To be called before there are process groups: the other ranks then wait for this one in the rendezvous, which has
    half an hour, and not in a collective, which has two minutes.

    Raises:
        ModelFilesError, ConfigError: the encoder cannot be loaded.
    """
    if model.text_on_one_rank and rank == 0:
        model.encode_text([""])


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an allocation failed: on a CPU torch says so in words only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def prepare(device: torch.device, deterministic: bool) -> None:
    """Set up torch for inference on this device."""
    torch.set_grad_enabled(False)
    if deterministic:
        # Read when CUDA's BLAS is first used, so in time here.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        # Every buffer we make is written before it is read.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        # Before the model is loaded: no rank may open a context on another rank's device.
        torch.cuda.set_device(device)
        # float32 means float32: TF32 would make a video depend on the shapes, and so on the number of ranks.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False


def with_flag(message: str) -> str:
    """Name what the engine calls by its own words as whoever started the server knows it."""
    field, separator, problem = message.partition(": ")
    return f"--{field.replace(' ', '-')}{separator}{problem}" if separator and field in _FLAGS else message


def explain(config: RankConfig, reason: str, message: str) -> None:
    """Tell the front why this rank exits, where an exit code alone would not say it."""
    message = with_flag(message)
    logger.error("%s", message)
    if config.failure_file:
        # Every rank makes the same mistake at the same time: whoever renames last wins, nobody reads half a file.
        unfinished = config.failure_file.with_name(f"{config.failure_file.name}.{config.rank}")
        unfinished.write_text(json.dumps({"reason": reason, "message": message}))
        unfinished.replace(config.failure_file)

"""What `vinf serve` was asked for, checked once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vinf_server.flag_values import Address, ConfigError, RankMesh, RankWeights, check_url
from vinf_server.logs import LOG_FORMATS, LogFormat

if TYPE_CHECKING:
    from vinf_server.hosts_config import HostsConfig

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]

DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "float16")

MAX_RANKS = 256
"""Far above any group that was ever tried; catches a typing mistake."""

MIN_MEMORY_BUDGET, MAX_MEMORY_BUDGET = 64 << 20, 16 << 40
"""Bytes: less holds no model, more no device; either is a typing mistake."""

TORCHRUN_SHIM = "vinf_server.agent_shim"
RANK_MODULE = "vinf_server.rank"

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")

MAX_KEEP_S = 3650 * 86_400.0
"""Ten years; more is meant as for ever."""

MAX_KEEP_COUNT = 100_000
"""Their specifications and the times of their frames are held in memory."""

MIN_DISK_BUDGET, MAX_DISK_BUDGET = 1 << 20, 1 << 60
"""Bytes: less holds no video, more no disk; either is a typing mistake."""


def default_data_dir() -> Path:
    """Where the front keeps its frames and logs unless told otherwise."""
    state_home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state_home).expanduser() / "vinf"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Everything the front needs to know; raises `ConfigError` for what cannot work."""

    ranks: int
    """Processes in the group, one a GPU (or a share of the CPU)."""

    model: str = "sprites"
    """A name, a folder, or OWNER/NAME on the hub; handed to the ranks as it is: they know the models."""

    model_base: str = ""
    """A folder or OWNER/NAME on the hub with the parts that the model's own files lack."""

    model_revision: str = ""
    """Branch, tag or commit of the model on the hub."""

    model_options: tuple[tuple[str, str], ...] = ()
    """What the model lets one choose, by name."""

    offline: bool = False
    """Whether the hub is left alone: only files that are on this machine count."""

    listen: Address = field(default_factory=lambda: Address("127.0.0.1", 50051))
    """Where clients connect."""

    metrics: Address | None = field(default_factory=lambda: Address("127.0.0.1", 9464))
    """Where Prometheus scrapes; None switches it off."""

    web: Address | None = None
    """Where browsers find the page to watch; None: there is none."""

    web_names: tuple[str, ...] = ()
    """Names besides the machine's own that browsers may ask for the page by."""

    data_dir: Path = field(default_factory=default_data_dir)
    """Generations, frames, checkpoints and logs, for this server and the next one; one front a folder."""

    disk_budget: int | None = None
    """Bytes that frames and checkpoints may take; None: what the disk has, a reserve excepted."""

    keep_for_s: float | None = 7 * 86_400.0
    """From the end of a generation until it is forgotten; None: for ever."""

    keep_count: int = 1000
    """Generations that have ended and are kept; beyond, the oldest ones are forgotten."""

    device: Device = "auto"
    """What the ranks compute on; auto prefers CUDA."""

    dtype: Dtype = "float32"
    """What the ranks compute in."""

    deterministic: bool = False
    """Bit-identical frames on a GPU, at some cost in speed."""

    rank_weights: RankWeights = field(default_factory=RankWeights)
    """What the ranks' clips are proportional to."""

    mesh: RankMesh = field(default_factory=RankMesh)
    """How many ranks work on one clip."""

    memory_budget: int | None = None
    """Bytes that a rank may hold; None: what its device has."""

    skip_negligible: bool = False
    """Leave out context that a phase damps to nearly nothing; otherwise attention is exact."""

    max_waiting: int = 64
    """Generations that may wait for the group."""

    max_waiting_per_client: int = 0
    """Of these, how many may be of one client that is known by name; 0: all."""

    max_creates_per_minute: int = 600
    """CreateGeneration calls of one client, by its name or else by its host; 0: no limit."""

    insecure: bool = False
    """Allows an address that other machines can reach, without encryption."""

    tls_cert: Path | None = None
    """PEM: the server's certificate and those between it and its authority; None: no encryption."""

    tls_key: Path | None = None
    """PEM: the private key of `tls_cert`."""

    tls_client_ca: Path | None = None
    """PEM: the authorities of clients' certificates; None: clients need none."""

    tokens: Path | None = None
    """Hashes of the tokens that clients must show one of; None: they need none."""

    ready_file: Path | None = None
    """Written once the group is ready, for whoever started the front."""

    spare: bool = True
    """Whether a spare agent waits to take the place of a group that is lost."""

    visible_gpus: int = 0
    """CUDA devices the ranks will see."""

    rank_module: str = RANK_MODULE
    """The program of a rank; tests put a scripted one here."""

    agent_module: str = TORCHRUN_SHIM
    """The program that starts the ranks; tests put one here that does not import torch."""

    beat_timeout_s: float = 4.0
    """A ready rank that is silent for so long hangs. Beats come every second, from a thread of their own."""

    hang_timeout_s: float = 5.0
    """Work that does not get on for so long hangs, or for ten usual steps where that is longer."""

    otlp_endpoint: str | None = None
    """URL of a collector that takes spans, OTLP over gRPC; empty: what OTEL_EXPORTER_OTLP_* say; None: no spans."""

    log_format: LogFormat = "text"
    """How the front and its ranks write what they log."""

    grace_s: float = 30.0
    """Longest that a stop may take: the running generation ends or saves a checkpoint meanwhile."""

    drain_delay_s: float = 0.0
    """From readiness red to refusing new work: load balancers look meanwhile."""

    frame_timeout_s: float = 30.0
    """From the last sign of a finished generation to giving up on frames that never arrived."""

    hosts: HostsConfig | None = None
    """How other hosts join; None: the group is on this host alone."""

    relaunch_delay_s: float = 0.5
    """Before another launch when a group was lost that never became ready; doubles as long as none does. A group that
    worked is replaced at once."""

    max_losses: int = 5
    """Losses of the group within `loss_window_s` after which the front gives up."""

    loss_window_s: float = 600.0
    """See `max_losses`."""

    def __post_init__(self) -> None:
        _check_range("--ranks", self.ranks, 1, MAX_RANKS)
        _check_range("--max-waiting", self.max_waiting, 1, 100_000)
        _check_range("--max-waiting-per-client", self.max_waiting_per_client, 0, 100_000)
        _check_range("--max-creates-per-minute", self.max_creates_per_minute, 0, 1_000_000)
        _check_range("--keep-count", self.keep_count, 1, MAX_KEEP_COUNT)
        if self.keep_for_s is not None and not 0 <= self.keep_for_s <= MAX_KEEP_S:  # false for NaN, too
            raise ConfigError("--keep-for", f"{self.keep_for_s:g} s are not in [0, {MAX_KEEP_S:g}] (ten years)")
        if self.disk_budget is not None and not MIN_DISK_BUDGET <= self.disk_budget <= MAX_DISK_BUDGET:
            raise ConfigError(
                "--disk-budget",
                f"{self.disk_budget} bytes are not in [{MIN_DISK_BUDGET >> 20}MiB, {MAX_DISK_BUDGET >> 40}TiB]",
            )
        if self.ready_file is not None and not self.ready_file.absolute().parent.is_dir():
            raise ConfigError("--ready-file", f"{self.ready_file.absolute().parent} is not a folder")
        if not 0.5 <= self.beat_timeout_s <= 3600:  # false for NaN, too
            raise ConfigError("--beat-timeout", f"{self.beat_timeout_s:g} is not in [0.5, 3600] seconds")
        if not 1 <= self.hang_timeout_s <= 3600:
            raise ConfigError("--hang-timeout", f"{self.hang_timeout_s:g} is not in [1, 3600] seconds")
        if not 1 <= self.grace_s <= 86_400:
            raise ConfigError("--grace", f"{self.grace_s:g} is not in [1, 86400] seconds")
        if not 0 <= self.drain_delay_s <= self.grace_s / 2:
            raise ConfigError(
                "--drain-delay", f"{self.drain_delay_s:g} is not in [0, {self.grace_s / 2:g}] seconds, half of --grace"
            )
        _check_range("--max-losses", self.max_losses, 1, 1_000_000)
        if not self.model.strip():
            raise ConfigError("--model", "is empty")
        if self.device not in DEVICES:
            raise ConfigError("--device", f"{self.device!r} is not one of {', '.join(DEVICES)}")
        if self.otlp_endpoint:
            check_url(self.otlp_endpoint, flag="--otlp-endpoint")
        if self.log_format not in LOG_FORMATS:
            raise ConfigError("--log-format", f"{self.log_format!r} is not one of {', '.join(LOG_FORMATS)}")
        if self.dtype not in DTYPES:
            raise ConfigError("--dtype", f"{self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.hosts is None:
            self.mesh.check(self.ranks)
        if self.hosts is None and self.rank_weights.source == "given" and len(self.rank_weights.given) != self.ranks:
            raise ConfigError(
                "--rank-weights", f"{len(self.rank_weights.given)} numbers for {self.ranks} ranks; give one a rank"
            )
        if self.memory_budget is not None and not MIN_MEMORY_BUDGET <= self.memory_budget <= MAX_MEMORY_BUDGET:
            raise ConfigError(
                "--memory-budget",
                f"{self.memory_budget} bytes are not in [{MIN_MEMORY_BUDGET >> 20}MiB, {MAX_MEMORY_BUDGET >> 40}TiB]",
            )
        if self.web_names and self.web is None:
            raise ConfigError("--web-names", "only with --web")
        for name in self.web_names:
            if not _NAME.fullmatch(name):
                raise ConfigError("--web-names", f"{name!r} is not the name of a host")
        self._check_doors()
        if self.device == "cuda" and self.visible_gpus == 0:
            raise ConfigError("--device", "cuda was asked for, but no CUDA device is visible")
        if self.uses_cuda and self.ranks > self.visible_gpus:
            raise ConfigError(
                "--ranks",
                f"{self.ranks} ranks need {self.ranks} CUDA devices, {self.visible_gpus} visible; "
                "use fewer ranks or --device cpu",
            )

    def _check_doors(self) -> None:
        if self.tls_cert is None:
            for flag, path in (("--tls-key", self.tls_key), ("--tls-client-ca", self.tls_client_ca)):
                if path is not None:
                    raise ConfigError(flag, "needs --tls-cert")
        elif self.tls_key is None:
            raise ConfigError("--tls-cert", "needs --tls-key")
        if self.web is not None and self.tls_client_ca is not None and self.tokens is None:
            raise ConfigError(
                "--web", "with --tls-client-ca needs --tokens: the page tells clients apart by nothing else"
            )
        if self.tls_cert is not None or self.insecure:
            return
        for flag, address in (("--listen", self.listen), ("--web", self.web)):
            if address is None or address.is_loopback:
                continue
            tokens = ", and neither are the tokens" if self.tokens is not None else ""
            raise ConfigError(
                flag,
                f"{address} can be reached from other machines and is not encrypted{tokens}; "
                "give --tls-cert and --tls-key, or add --insecure to accept that",
            )

    @property
    def keeps_spare_agent(self) -> bool:
        """True when one is wanted and the agent is torchrun, which takes seconds to start."""
        return self.spare and self.agent_module == TORCHRUN_SHIM

    @property
    def uses_cuda(self) -> bool:
        """True when the ranks compute on GPUs."""
        return self.device == "cuda" or (self.device == "auto" and self.visible_gpus > 0)


def _check_range(flag: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(flag, f"{value} is not in [{low}, {high}]")

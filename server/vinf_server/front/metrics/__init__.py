"""Every number the front exports, on a registry passed in; docs/metrics.md lists them all.

Labels have few values: never a generation's id, never a prompt. Label sets that are known in advance start at 0, so a
rate over them is right from the first event on; sets that carry the model's name start with the ranks' first report.
"""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge

from vinf_server.front.metrics.calls import CallMetrics
from vinf_server.front.metrics.delivery import DeliveryMetrics
from vinf_server.front.metrics.devices import DeviceMetrics
from vinf_server.front.metrics.generations import GenerationMetrics
from vinf_server.front.metrics.process import ProcessMetrics
from vinf_server.front.metrics.ranks import RankMetrics

API_VERSION = "v1"


class Metrics:
    """The metric objects, by what they are about."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.build_info = Gauge(
            "vinf_build_info", "Always 1; what runs here.", ("version", "api_version"), registry=registry
        )
        self.config_info = Gauge(
            "vinf_config_info",
            "Always 1; how it runs.",
            ("model_name", "world_size", "dtype", "parallel_layout"),
            registry=registry,
        )
        self.ready = Gauge("vinf_ready", "1 while the ranks are up and generations are accepted.", registry=registry)
        self.generations = GenerationMetrics(registry)
        self.delivery = DeliveryMetrics(registry)
        self.ranks = RankMetrics(registry)
        self.devices = DeviceMetrics(registry)
        self.calls = CallMetrics(registry)
        self.process = ProcessMetrics(registry)
        self.build_info.labels(version("vinf"), API_VERSION).set(1)

    def model_is_known(self, model_name: str, *, world_size: int, dtype: str, parallel_layout: str = "") -> None:
        """Say how a model runs now, and make every series of it, at 0; calling it again changes nothing."""
        self.config_info.clear()  # an earlier group may have been of another size
        self.config_info.labels(model_name, str(world_size), dtype, parallel_layout).set(1)
        self.generations.model_is_known(model_name)

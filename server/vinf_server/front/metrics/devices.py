"""What NVML says about the ranks' GPUs; without it none of these has a series."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class DeviceMetrics:
    """One series a GPU."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gpu = ("gpu", "gpu_uuid")
        self.utilization = Gauge(
            "vinf_gpu_utilization_ratio", "Share of time in which a kernel ran, 0 to 1.", gpu, registry=registry
        )
        self.memory_used = Gauge(
            "vinf_gpu_memory_used_bytes", "Memory of the GPU in use, by all its processes.", gpu, registry=registry
        )
        self.memory_total = Gauge("vinf_gpu_memory_total_bytes", "Memory of the GPU.", gpu, registry=registry)
        self.power = Gauge("vinf_gpu_power_watts", "What the GPU draws.", gpu, registry=registry)
        self.energy = Counter(
            "vinf_gpu_energy_joules_total", "What the GPU took since its rank was first seen.", gpu, registry=registry
        )
        self.temperature = Gauge("vinf_gpu_temperature_celsius", "Of the GPU's core.", gpu, registry=registry)
        self.gauges = {
            "utilization_ratio": self.utilization,
            "memory_used_bytes": self.memory_used,
            "memory_total_bytes": self.memory_total,
            "power_watts": self.power,
            "temperature_celsius": self.temperature,
        }
        """By the field of a `DeviceReading`."""
        self.xid_errors = Counter(
            "vinf_gpu_xid_errors_total",
            "Errors the driver reported, by NVIDIA's number.",
            (*gpu, "xid"),
            registry=registry,
        )

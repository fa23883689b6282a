"""What each GPU makes, and what it spends its time on; NVIDIA's own exporter is preferred where it is scraped."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from deploy.grafana.dashboard.layout import Row
from deploy.grafana.dashboard.panels import About, Query, above, below, dial, graph, number
from deploy.grafana.dashboard.promql import SHOWN, here, of_device, of_gpu, of_the_group, rate, ratio, with_card

RANK = ("instance", "rank", "gpu")
NAME = "rank {{rank}} · {{gpu}}"
CARD = "{{gpu}} · {{card}}"
MIB = 1024 * 1024

BUSY = "vinf_worker_busy_seconds_total"
# Handing frames over is the host's work, beside the device's.
COMPUTING = rate(of_gpu(BUSY, 'stage!~"communicate|deliver"'), *RANK)
USED, TOTAL = of_gpu("vinf_worker_memory_used_bytes"), of_gpu("vinf_worker_memory_total_bytes")


def row() -> Row:
    """Make the row."""
    return Row("Per GPU", [*_work(), *_memory(), *_driver()])


def _work() -> list[Panel]:
    waiting = rate(of_gpu(BUSY, 'stage="communicate"'), *RANK)
    return [
        graph(
            About(
                "Frames a second per GPU",
                "Frames that each rank decoded. All ranks work on one video: the sum is what the server makes.",
                "one line below the others is a slower or a shared GPU: see 'Step skew', then --rank-weights.",
                "none",
            ),
            Query(rate(of_gpu("vinf_worker_frames_total"), *RANK), NAME),
        ),
        graph(
            About(
                "Busy share per GPU",
                "Seconds of a second that a rank's device computed for a generation, without waiting for other ranks.",
                "low while generations wait: see 'Waiting for other ranks', 'Stage time' and 'Event loop lag'.",
                "percentunit",
            ),
            Query(COMPUTING, NAME),
            size=(8, 8),
            top=1,
        ),
        dial(
            About(
                "Busy share, mean",
                "The mean of the graph beside it over the chosen GPUs, now.",
                "low beside a full queue is capacity that is there and not used.",
                "percentunit",
            ),
            Query(f"avg({of_the_group(COMPUTING)})"),
            size=(4, 8),
            limits=below(0.5, 0.2),
        ),
        graph(
            About(
                "Denoising steps a second per GPU",
                "Steps that each rank took; ranks take every step together, so their lines lie on each other.",
                "falling at the same load: another process on the GPU, or it runs slower because it is hot.",
                "none",
            ),
            Query(rate(of_gpu("vinf_worker_steps_total"), *RANK), NAME),
            size=(8, 8),
        ),
        graph(
            About(
                "Waiting for other ranks",
                "Share of a rank's busy time spent in exchanges with the others, waiting for their data included.",
                "high on all: the link between GPUs is slow or clips are short; high on one: the others are slower.",
                "percentunit",
            ),
            Query(ratio(waiting, rate(of_gpu(BUSY), *RANK)), NAME),
            size=(8, 8),
            limits=above(0.25, 0.5),
            top=1,
        ),
        graph(
            About(
                "Step skew",
                "The slowest rank's own computing minus the fastest one's, a denoising step.",
                "the fast ranks wait this long in each step: deal clips by measured speed (--rank-weights measured).",
                "s",
            ),
            Query(here("vinf_worker_step_skew_seconds"), "{{instance}}"),
            size=(8, 8),
        ),
    ]


def _memory() -> list[Panel]:
    return [
        graph(
            About(
                "Memory of the ranks",
                "What each rank holds, the most it has held, and what its device has.",
                "near the device's: shorter videos, smaller frames or more ranks; see docs/limits.md on memory.",
                "bytes",
            ),
            Query(USED, f"{NAME} used"),
            Query(of_gpu("vinf_worker_memory_peak_bytes"), f"{NAME} peak"),
            Query(TOTAL, f"{NAME} total"),
            size=(8, 8),
        ),
        dial(
            About(
                "Memory used",
                "Of what each rank's device has, now.",
                "near 100 %: see 'Memory of the ranks'. The alert VinfGpuMemoryNearLimit looks at the whole GPU.",
                "percentunit",
            ),
            Query(f"{USED} / {TOTAL}", NAME),
            size=(4, 8),
            limits=above(0.85, 0.95),
        ),
        graph(
            About(
                "GPU memory, all processes",
                "Memory in use on the GPU, whoever holds it.",
                "much more than 'Memory of the ranks': another process shares the GPU.",
                "bytes",
            ),
            Query(of_device(f"DCGM_FI_DEV_FB_USED * {MIB}", "vinf_gpu_memory_used_bytes"), f"{CARD} used"),
            Query(with_card(of_gpu("vinf_gpu_memory_total_bytes")), f"{CARD} total"),
        ),
    ]


def _driver() -> list[Panel]:
    energy, frames = (rate(of_gpu(f"vinf_{what}_total"), over=SHOWN) for what in ("gpu_energy_joules", "worker_frames"))
    return [
        graph(
            About(
                "GPU utilisation",
                "Share of time in which any kernel ran on the GPU.",
                "low while 'Busy share per GPU' is high: the host feeds the GPU too slowly; look at its CPU.",
                "percentunit",
            ),
            Query(of_device("DCGM_FI_DEV_GPU_UTIL / 100", "vinf_gpu_utilization_ratio"), CARD),
            size=(5, 8),
            top=1,
        ),
        graph(
            About(
                "Tensor cores active",
                "Share of cycles in which the tensor cores worked; from NVIDIA's exporter alone.",
                "low while 'GPU utilisation' is high: half precision is off (--dtype), or memory-bound kernels lead.",
                "percentunit",
            ),
            Query(of_device("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", ""), CARD),
            size=(5, 8),
            top=1,
        ),
        graph(
            About(
                "Power",
                "What each GPU draws.",
                "at the board's limit: clocks are lowered, and steps take longer.",
                "watt",
            ),
            Query(of_device("DCGM_FI_DEV_POWER_USAGE", "vinf_gpu_power_watts"), CARD),
            size=(5, 8),
        ),
        graph(
            About(
                "Temperature",
                "Of each GPU's core.",
                "from about 85 °C on the GPU slows itself down: look at fans, air and neighbours.",
                "celsius",
            ),
            Query(of_device("DCGM_FI_DEV_GPU_TEMP", "vinf_gpu_temperature_celsius"), CARD),
            size=(5, 8),
            limits=above(80, 90),
        ),
        number(
            About(
                "Energy a frame",
                "Joules the GPUs took for each frame decoded in the shown time, idle time included.",
                "growing: the server idles between generations, or steps and sizes have grown.",
                "joule",
            ),
            Query(ratio(energy, frames)),
            size=(4, 8),
        ),
    ]

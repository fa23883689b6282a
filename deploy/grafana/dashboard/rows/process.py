"""The front's own process, as every Python program exports it."""

from __future__ import annotations

from deploy.grafana.dashboard.layout import Row
from deploy.grafana.dashboard.panels import About, Query, graph, number
from deploy.grafana.dashboard.promql import here, of_model, rate


def row() -> Row:
    """Make the row."""
    return Row(
        "Process of the front",
        [
            number(
                About(
                    "What runs",
                    "Version of the server, its model, how many ranks, in which precision, how they share a video.",
                    "versions that differ between servers: an update stopped half-way.",
                    "none",
                ),
                Query(here("vinf_build_info"), "vinf {{version}}"),
                Query(of_model("vinf_config_info"), "{{model_name}} · {{world_size}} ranks · {{dtype}}"),
                Query(of_model("vinf_config_info"), "{{parallel_layout}}"),
                size=(8, 8),
                names=True,
            ),
            graph(
                About(
                    "Memory",
                    "What the front's process holds; the ranks are in the row Per GPU.",
                    "growing for hours at the same load is a leak: please report it with the version.",
                    "bytes",
                ),
                Query(here("process_resident_memory_bytes"), "{{instance}}"),
                size=(8, 8),
            ),
            graph(
                About(
                    "CPU",
                    "Cores that the front uses.",
                    "near 1: one event loop serves all calls; let readers ask for raw frames, or add servers.",
                    "none",
                ),
                Query(rate(here("process_cpu_seconds_total"), "instance"), "{{instance}}"),
                size=(8, 8),
            ),
            graph(
                About(
                    "Open files",
                    "Descriptors in use, and how many there may be.",
                    "near the limit new connections are refused: raise RLIMIT_NOFILE.",
                    "none",
                ),
                Query(here("process_open_fds"), "{{instance}} open"),
                Query(here("process_max_fds"), "{{instance}} limit"),
                size=(6, 8),
            ),
            graph(
                About(
                    "Threads",
                    "Of the front's process, those of gRPC and other libraries included.",
                    "growing without end at the same load is a leak: please report it with the version.",
                    "none",
                ),
                Query(here("process_threads"), "{{instance}}"),
                size=(6, 8),
            ),
            graph(
                About(
                    "Garbage collections a second",
                    "Of Python, by generation.",
                    "several of generation 2 a second go with a high 'Event loop lag'.",
                    "none",
                ),
                Query(rate(here("python_gc_collections_total"), "generation"), "generation {{generation}}"),
                size=(6, 8),
            ),
            graph(
                About(
                    "Up for",
                    "Since the front's process began.",
                    "falling to 0: it was started anew; see the log of what runs it.",
                    "s",
                ),
                Query(f"time() - {here('process_start_time_seconds')}", "{{instance}}"),
                size=(6, 8),
            ),
        ],
        closed=True,
    )

"""The frames' way to readers: how many, how fresh, who holds whom up."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from deploy.grafana.dashboard.layout import Row
from deploy.grafana.dashboard.panels import About, Query, above, graph
from deploy.grafana.dashboard.promql import a_minute, here, quantile, rate, ratio, total


def row() -> Row:
    """Make the row."""
    return Row("Delivery", [*_readers(), *_freshness(), *_disk()])


def _readers() -> list[Panel]:
    return [
        graph(
            About(
                "Active streams",
                "Calls that deliver something now.",
                "0 while generations run: nobody watches, or no client gets through; see the row gRPC.",
                "none",
            ),
            Query(total(here("vinf_active_streams"), "method"), "{{method}}"),
            size=(8, 8),
        ),
        graph(
            About(
                "Delivered bytes a second",
                "Bytes of frames handed to readers, by encoding.",
                "near the network's rate: let readers ask for JPEG or smaller frames.",
                "Bps",
            ),
            Query(rate(here("vinf_delivered_bytes_total"), "encoding"), "{{encoding}}"),
            stacked=True,
            size=(8, 8),
        ),
        graph(
            About(
                "Delivered frames a second",
                "Frames handed to readers, and conversions for them: one serves all readers at the same place.",
                "as many conversions as frames with several readers: they read at other places or in other formats.",
                "none",
            ),
            Query(rate(here("vinf_delivered_frames_total"), "method"), "{{method}}"),
            Query(rate(here("vinf_frame_conversions_total")), "converted"),
            size=(8, 8),
        ),
    ]


def _freshness() -> list[Panel]:
    age = here("vinf_frame_age_at_send_seconds")
    encoding = here("vinf_frame_encode_duration_seconds")
    return [
        graph(
            About(
                "Frame age at sending",
                "From a frame's arrival on disk to its sending, to readers that follow a running generation.",
                "growing with 'Clients stall': readers are slow; without it: the front is, see 'Event loop lag'.",
                "s",
            ),
            Query(quantile("0.50", age, "method"), "{{method}} p50"),
            Query(quantile("0.95", age, "method"), "{{method}} p95"),
        ),
        graph(
            About(
                "Frames dropped and left out",
                "Frames dropped from the disk while their generation is kept, read or not, and frames that readers did "
                "not get.",
                "FRAME_EVICTED: a reader was too slow or came too late; SKIPPED: it asked for the latest alone.",
                "none",
            ),
            Query(rate(here("vinf_spool_dropped_frames_total"), "reason"), "dropped: {{reason}}"),
            Query(rate(here("vinf_left_out_frames_total"), "method", "reason"), "left out: {{reason}} of {{method}}"),
        ),
        graph(
            About(
                "Clients stall",
                "Seconds of a second that an open stream waited for its client to take a message, on average.",
                "near 1: readers, or the network to them, are the bottleneck; nothing here is.",
                "percentunit",
            ),
            Query(
                ratio(
                    rate(here("vinf_client_stall_seconds_total"), "method"),
                    total(here("vinf_active_streams"), "method"),
                ),
                "{{method}}",
            ),
            size=(8, 8),
        ),
        graph(
            About(
                "Resumed streams a minute",
                "Streams that began where an earlier one had stopped.",
                "many: connections break; look at proxies and keepalives between clients and server.",
                "none",
            ),
            Query(a_minute(here("vinf_stream_resumes_total"), "method"), "{{method}}"),
            size=(8, 8),
        ),
        graph(
            About(
                "Time to convert a frame",
                "Turning one frame into what a reader asked for, p95.",
                "PNG is slow by nature; raw should be far below 10 ms, or the CPU is short.",
                "s",
            ),
            Query(quantile("0.95", encoding, "encoding", "pixel_format"), "{{encoding}} {{pixel_format}}"),
            size=(8, 8),
        ),
    ]


def _disk() -> list[Panel]:
    used, whole = here("vinf_spool_bytes"), here("vinf_spool_capacity_bytes")
    return [
        graph(
            About(
                "Disk used",
                "Frames on disk, of what frames and checkpoints may take.",
                "near 100 % generations are suspended or refused: lower --keep-for or --keep-count, or give more disk.",
                "percentunit",
            ),
            Query(f"{used} / {whole}", "{{instance}}"),
            size=(8, 8),
            limits=above(0.8, 0.95),
            top=1,
        ),
        graph(
            About(
                "Frames kept",
                "Frames that can be read now.",
                "growing without end: nothing is forgotten; see --keep-for.",
                "none",
            ),
            Query(here("vinf_spool_frames"), "{{instance}}"),
            size=(8, 8),
        ),
        graph(
            About(
                "Frames in memory",
                "Bytes of converted frames kept for readers close behind.",
                "0 with readers at work: no memory left for it (--memory-budget).",
                "bytes",
            ),
            Query(here("vinf_frame_cache_bytes"), "{{instance}}"),
            size=(8, 8),
        ),
    ]

"""A rank's sign of life, once a second, from a thread and on a stream of its own."""

from __future__ import annotations

import os
import platform
import socket
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import grpc
import psutil
import torch

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.engine.probe import peak_memory
from vinf_server.rank.gpu import GpuWatch, watch_gpu
from vinf_server.rank.link import Link

BEAT_SECONDS = 1.0
"""Pace of the beats; the front takes a rank for hung after several of them are missing."""


class Tally:
    """A count that one thread raises and the beat's thread reads."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> None:
        """Count one more."""
        self.count += 1


class Heart:
    """Sends beats until the process ends."""

    def __init__(self, link: Link, rank: int) -> None:
        self._link = link
        self._rank = rank
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._host = socket.gethostname()
        self._process = psutil.Process()
        self._device: torch.device | None = None
        self._gpu: GpuWatch | None = None
        self._statistics: Callable[[pb.BeatRequest], None] = lambda beat: None
        self._thread = threading.Thread(target=self._run, name="vinf-beats", daemon=True)

    def start(self) -> None:
        """Begin to beat; at first there is nothing to tell but that the process lives."""
        self._thread.start()

    def describe(self, device: torch.device, statistics: Callable[[pb.BeatRequest], None]) -> None:
        """Say what the beats shall report from now on.

        Args:
            device: whose name and memory they carry.
            statistics: fills in progress, busy seconds and frames; called from the beat's thread.
        """
        self._statistics = statistics
        self._device = device
        self._gpu = watch_gpu(device)
        self._wake.set()

    def stop(self) -> None:
        """Send no more beats."""
        self._stop.set()
        if self._gpu is not None:
            self._gpu.stop()
        self._wake.set()

    def beat(self) -> pb.BeatRequest:
        """Make a beat of what is known now."""
        beat = pb.BeatRequest(rank=self._rank, pid=os.getpid(), host=self._host)
        if self._device is not None:
            beat.device = str(self._device)
            beat.device_name = device_name(self._device)
            beat.memory_used_bytes, beat.memory_total_bytes, beat.memory_peak_bytes = self._memory(self._device)
            if self._gpu is not None and (reading := self._gpu.newest) is not None:
                beat.device_reading.CopyFrom(reading)
        self._statistics(beat)
        return beat

    def _run(self) -> None:
        try:
            self._link.stub.Beat(self._beats(), metadata=self._link.metadata)
            self._link.lost("beats", None)
        except grpc.RpcError as error:
            self._link.lost("beats", error)

    def _beats(self) -> Iterator[pb.BeatRequest]:
        while True:
            self._wake.clear()
            yield self.beat()
            self._wake.wait(BEAT_SECONDS)
            if self._stop.is_set():
                return

    def _memory(self, device: torch.device) -> tuple[int, int, int]:
        """Held, there in all, and the most that was held."""
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            return torch.cuda.memory_reserved(device), total, torch.cuda.max_memory_reserved(device)
        return self._process.memory_info().rss, psutil.virtual_memory().total, peak_memory(device)


@cache
def device_name(device: torch.device) -> str:
    """Name a device for people."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

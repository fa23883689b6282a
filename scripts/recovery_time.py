"""Measures the time from a killed rank to the next frame that a client gets.

    python scripts/recovery_time.py [--ranks 2] [--rounds 5]

Starts a server of its own, kills the last rank while frames are decoded, and prints a line for each round: seconds
until readiness was red, until the group was ready again, and until the stream that the client already held went on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vinf_client import Client

SERVICE = "vinf.v1.VideoGenerationService"
PROMPT = "a red ball bouncing over the sea"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the time from a killed rank to the next frame.")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server, ready = start_server(Path(folder), arguments.ranks)
        try:
            rounds = [measure(ready["listen"]) for _ in range(arguments.rounds)]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    for name in rounds[0]:
        seconds = [found[name] for found in rounds]
        print(f"{name}: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")


def start_server(folder: Path, ranks: int) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """Start `vinf serve` and wait until it is ready."""
    ready_file = folder / "ready.json"
    command = [
        *(sys.executable, "-m", "vinf_client.cli", "serve", "--device", "cpu", "--ranks", str(ranks)),
        *("--listen", "127.0.0.1:0", "--metrics", "off", "--data-dir", str(folder / "data"), "--max-losses", "1000"),
        *("--ready-file", str(ready_file)),
    ]
    server = subprocess.Popen(command)
    while not ready_file.exists():
        if server.poll() is not None:
            raise SystemExit("the server did not start")
        time.sleep(0.05)
    return server, json.loads(ready_file.read_text())


def measure(address: str) -> dict[str, float]:
    """Kill the last rank between two frames."""
    changes: list[tuple[float, int]] = []
    ready_again = threading.Event()
    with grpc.insecure_channel(address) as channel, Client(address) as client:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))

        def follow() -> None:
            try:
                for change in watch:
                    changes.append((time.monotonic(), change.status))
                    if len(changes) == 3:
                        ready_again.set()
            except grpc.RpcError:
                ready_again.set()

        threading.Thread(target=follow, daemon=True).start()
        frames = iter(client.submit(PROMPT, frames=512, seed=1, steps=2).frames())
        for _ in range(8):
            next(frames)
        pid = client.info().ranks[-1].pid
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        longest, before = 0.0, killed
        for _ in frames:
            now = time.monotonic()
            longest, before = max(longest, now - before), now
        ready_again.wait(60)
        watch.cancel()
    (red, _), (green, _) = changes[1:3]
    found = {"readiness red": red - killed, "group ready": green - killed, "longest wait for a frame": longest}
    print(json.dumps({name: round(seconds, 3) for name, seconds in found.items()}), flush=True)
    return found


if __name__ == "__main__":
    main()

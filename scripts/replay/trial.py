"""What a replayed image must be able to do: serve, survive, stop, and go on where it was."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from scripts.replay.container import ADDRESS, Container, Image
from scripts.replay.root import StepError

_PROMPT = "a red ball bouncing over the sea"
_START_TIMEOUT, _STOP_TIMEOUT = 180.0, 45.0  # seconds


def try_image(image: Image, folder: Path, frames: int, told: Callable[[str], None]) -> None:
    """Run an image twice on the same volume.

    Raises:
        StepError: it does not do what it must.
    """
    volumes = folder / "volumes"
    volumes.mkdir()
    log = folder / "container.log"
    try:
        with Container(image, volumes, log) as container:
            took = container.wait_healthy(timeout=_START_TIMEOUT)
            told(f"{took:7.1f} s  healthy; processes of user {_users(container)}, first: {container.first.name()}")
            generation = _generate(container, folder / "first.npy", frames, told)
            _scrape(container, told)
            _lose_ranks(container, told)
            _stop(container, told)
        with Container(image, volumes, log) as container:
            took = container.wait_healthy(timeout=_START_TIMEOUT)
            told(f"{took:7.1f} s  healthy again on the same volume")
            again = folder / "again.npy"
            _vinf(container, "download", generation, "-o", str(again))
            if not np.array_equal(np.load(folder / "first.npy"), np.load(again)):
                raise StepError("the frames of before the restart are others than those behind it")
            told(f"           the video of before the restart: all {frames} frames, the same to the last bit")
            _stop(container, told)
    except StepError as error:
        end = log.read_text(errors="replace").splitlines()[-25:]
        raise StepError("\n".join([str(error), *end])) from error


def _vinf(container: Container, *arguments: str) -> str:
    server = f"{ADDRESS}:{container.image.ports[0]}"
    command = [sys.executable, "-m", "vinf_client.cli", *arguments, "--server", server]
    done = container.beside(command, timeout=120)
    if done.returncode:
        raise StepError(f"vinf {arguments[0]}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _users(container: Container) -> str:
    wanted = container.image.user.partition(":")[0]
    found = {str(process.uids().effective) for process in [container.first, *container.processes()]}
    if found != {wanted}:
        raise StepError(f"processes run as {found}, not as {wanted} alone")
    return wanted


def _generate(container: Container, file: Path, frames: int, told: Callable[[str], None]) -> str:
    began = time.monotonic()
    line = _vinf(container, "generate", _PROMPT, "--frames", str(frames), "--seed", "7", "-o", str(file), "--json")
    video = np.load(file)
    if video.shape != (frames, 64, 64, 3):
        raise StepError(f"{frames} frames were wanted, the video has the shape {video.shape}")
    picture, change = float(video.std()), float(np.abs(np.diff(video.astype(np.int16), axis=0)).mean())
    if picture < 10 or change == 0:
        raise StepError(f"the video shows nothing, or nothing moves: deviation {picture:.1f}, change {change:.3f}")
    told(
        f"{time.monotonic() - began:7.1f} s  vinf generate from outside: {frames} frames of 64 x 64, "
        f"deviation {picture:.0f} of 255, mean change from frame to frame {change:.1f}"
    )
    return str(json.loads(line.splitlines()[-1])["generation_id"])


def _scrape(container: Container, told: Callable[[str], None]) -> None:
    program = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"
    port = container.image.ports[1]
    done = container.beside([sys.executable, "-c", program, f"http://{ADDRESS}:{port}/metrics"], timeout=30)
    samples = [line for line in done.stdout.splitlines() if line.startswith("vinf_")]
    if done.returncode or not samples:
        raise StepError(f"no metrics at port {port}: {done.stderr.strip()}")
    told(f"           metrics: {len(samples)} samples of vinf_*")


def _lose_ranks(container: Container, told: Callable[[str], None]) -> None:
    """Kill what started the ranks: they must die, be reaped, and be replaced."""
    (front,) = container.first.children()
    agents = front.children()
    family = [process for agent in agents for process in [agent, *agent.children(recursive=True)]]
    began = time.monotonic()
    for agent in agents:
        agent.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    if alive:
        raise StepError(f"processes outlived their killed parent: {alive}")
    took = time.monotonic() - began
    container.wait_healthy(timeout=_START_TIMEOUT)
    dead = [process for process in container.processes() if process.status() == psutil.STATUS_ZOMBIE]
    if dead:
        raise StepError(f"nobody reaped {dead}")
    told(
        f"{time.monotonic() - began:7.1f} s  the ranks' parents killed: {len(family)} processes gone and reaped "
        f"after {took:.1f} s, then healthy again"
    )


def _stop(container: Container, told: Callable[[str], None]) -> None:
    code, took = container.stop(timeout=_STOP_TIMEOUT)
    if code:
        raise StepError(f"the container stopped with exit code {code}")
    told(f"{took:7.1f} s  stopped: exit code 0")

"""The entry point of a replayed image, running as a container engine would run it.

Its own processes, mounts, network and host name; the root read-only but for the volumes and /tmp; the image's user,
without any capability. Nothing of it is seen outside, and all of it ends with its first process.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from scripts.replay.dockerfile import Dockerfile
from scripts.replay.root import StepError, environment

ADDRESS = "192.0.2.1"
"""Of the container: nobody uses this one, it is kept for documentation."""

_DEVICES = "null zero full random urandom tty"


@dataclass(frozen=True, slots=True)
class Image:
    """What a container engine knows of an image."""

    root: Path
    env: dict[str, str]
    user: str
    workdir: str
    command: list[str]
    """Entry point and arguments."""
    health: list[str]
    stop_signal: signal.Signals
    volumes: list[str]
    ports: list[int]

    @classmethod
    def of(cls, file: Dockerfile, target: str, root: Path, env: dict[str, str], user: str, workdir: str) -> Image:
        """Read what is in force for a target; KeyError where the file does not say it."""
        found = {name: file.last(target, name) for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK", "STOPSIGNAL")}
        found |= {name: file.last(target, name) for name in ("VOLUME", "EXPOSE")}
        if missing := [name for name, step in found.items() if step is None]:
            raise KeyError(f"{target} has no {', '.join(missing)}")
        steps = {name: step for name, step in found.items() if step is not None}
        return cls(
            root,
            env,
            user,
            workdir,
            command=[*steps["ENTRYPOINT"].words, *steps["CMD"].words],
            health=health_command(steps["HEALTHCHECK"].value),
            stop_signal=signal.Signals[steps["STOPSIGNAL"].value],
            volumes=steps["VOLUME"].words,
            ports=[int(word) for word in steps["EXPOSE"].words],
        )


def health_command(value: str) -> list[str]:
    """Return what a HEALTHCHECK runs: ``CMD ["a", "b"]``."""
    kind, _, command = value.partition(" ")
    if kind != "CMD" or not command.strip().startswith("["):
        raise StepError(f"HEALTHCHECK {value}: the replay knows the exec form alone")
    return list(json.loads(command))


class Container:
    """One run of an image; `stop` it, or leave the context."""

    def __init__(self, image: Image, volumes: Path, log: Path) -> None:
        """Start it.

        Args:
            image: what to run.
            volumes: a folder for the image's volumes, which outlives the container.
            log: for what it prints.
        """
        self.image = image
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts"]
        command += ["sh", "-ec", self._setup(volumes)]
        with log.open("ab") as out:
            self._outside = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        if self._outside.poll() is None:
            for process in psutil.Process(self._outside.pid).children():
                process.kill()
            self._outside.wait(30)

    def _setup(self, volumes: Path) -> str:
        """Shell lines that make the container around themselves and become its first process."""
        image, root = self.image, shlex.quote(str(self.image.root))
        lines = [f"mount --bind {root} {root}"]
        lines += [f"mount -t proc proc {root}/proc", f"mount -t sysfs -o ro sysfs {root}/sys"]
        lines += [f"mount -t tmpfs -o mode=755,size=1m tmpfs {root}/dev", f"mkdir {root}/dev/shm"]
        lines += [f"for d in {_DEVICES}; do : >{root}/dev/$d; mount --bind /dev/$d {root}/dev/$d; done"]
        lines += [f"ln -s /proc/self/fd {root}/dev/fd"]
        lines += [f"mount -t tmpfs -o mode=1777,size=64m tmpfs {root}/dev/shm"]
        lines += [f"mount -t tmpfs -o mode=1777,size=256m tmpfs {root}/tmp"]
        for volume in image.volumes:
            kept = volumes / volume.strip("/").replace("/", "-")
            if not kept.exists():  # a new volume begins as a copy of what the image has there
                subprocess.run(["cp", "--archive", image.root / volume.lstrip("/"), kept], check=True)
            lines.append(f"mount --bind {shlex.quote(str(kept))} {root}{volume}")
        hosts = volumes / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n::1 localhost\n{ADDRESS} vinf\n")
        lines += [f"touch {root}/etc/hosts", f"mount --bind {shlex.quote(str(hosts))} {root}/etc/hosts"]
        lines += [f"mount -o remount,bind,ro {root}", "hostname vinf", "ip link set lo up"]
        lines += [f"ip address add {ADDRESS}/32 dev lo"]
        lines.append(shlex.join(["exec", "chroot", str(image.root), *self._as_user(image.command)]))
        return "\n".join(lines)

    def _as_user(self, command: list[str]) -> list[str]:
        user, _, group = self.image.user.partition(":")
        drop = ["--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
        inside = ["env", "-i", "-C", self.image.workdir, *environment(self.image.env, home=self.image.workdir)]
        return ["setpriv", "--reuid", user, "--regid", group or user, *drop, *inside, *command]

    @property
    def first(self) -> psutil.Process:
        """The first process; StepError when the container has ended."""
        for process in psutil.Process(self._outside.pid).children():
            return process
        raise StepError("the container has ended")

    def processes(self) -> list[psutil.Process]:
        """All of its processes but the first, the dead that nobody reaped among them."""
        return self.first.children(recursive=True)

    def inside(self, command: list[str], *, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as the image's user: what `docker exec` does."""
        enter = ["nsenter", "--target", str(self.first.pid), "--mount", "--pid", "--net", "--ipc", "--uts", "--root"]
        return _output([*enter, *self._as_user(command)], timeout)

    def beside(self, command: list[str], *, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine that sees nothing of the container but its network."""
        return _output(["nsenter", "--target", str(self.first.pid), "--net", *command], timeout)

    def wait_healthy(self, *, timeout: float) -> float:
        """Ask for its health until it is well; returns the seconds that took.

        Raises:
            StepError: it ended, or did not become healthy in time.
        """
        began = time.monotonic()
        while True:
            if self._outside.poll() is not None:
                raise StepError(f"the container ended with {self._outside.returncode} before it was healthy")
            try:
                if self.inside(self.image.health, timeout=30).returncode == 0:
                    return time.monotonic() - began
            except (StepError, psutil.NoSuchProcess):
                pass
            if time.monotonic() - began > timeout:
                raise StepError(f"the container was not healthy after {timeout:g} s")
            time.sleep(0.2)

    def stop(self, *, timeout: float) -> tuple[int, float]:
        """Send the stop signal to the first process; returns its exit code and the seconds it took."""
        began = time.monotonic()
        self.first.send_signal(self.image.stop_signal)
        try:
            return self._outside.wait(timeout), time.monotonic() - began
        except subprocess.TimeoutExpired:
            raise StepError(f"the container did not stop within {timeout:g} s") from None


def _output(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
    )

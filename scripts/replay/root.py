"""Folders that processes take for the whole file system: a Debian in each, and what a container engine mounts there.

All of it happens in a mount namespace of the replay's own, so that nothing is mounted for anybody else, and nothing
stays mounted however the replay ends.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LOOKED_UP = ("/etc/resolv.conf", "/etc/hosts")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class StepError(Exception):
    """A command of a step failed; the message names it."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of this machine that is seen inside."""

    source: Path
    target: str
    is_writable: bool = False


def make_debian(folder: Path, release: str, log: Path) -> None:
    """Make the smallest Debian in an empty folder, from where this machine takes its own packages.

    Raises:
        StepError: debootstrap failed.
    """
    sources = _apt_sources(release)
    mirror = [sources[0].split()[1]] if sources else []
    run(["debootstrap", "--variant=minbase", release, str(folder), *mirror], log)
    if sources:
        (folder / "etc/apt/sources.list").write_text("\n".join(sources) + "\n")
    # Images for containers keep no packages and no lists either.
    (folder / "etc/apt/apt.conf.d/keep-nothing").write_text('APT::Keep-Downloaded-Packages "false";\n')
    run(["chroot", str(folder), "apt-get", "clean"], log)


def _apt_sources(release: str) -> list[str]:
    """Where this machine's apt finds a release, its updates and its security fixes; nothing on another release."""
    command = ["apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    wanted = [line for line in dict.fromkeys(found) if line.split()[2] in (release, f"{release}-updates")]
    wanted += [line for line in dict.fromkeys(found) if line.split()[2] == f"{release}-security"]
    return sorted(wanted, key=lambda line: line.split()[2] != release)


@contextmanager
def mounted(root: Path, binds: Sequence[Bind] = ()) -> Iterator[None]:
    """Mount inside a root what every process expects, and what is bound; unmount it behind the body."""
    made: list[Path] = []
    try:
        for arguments in root_mounts(root):
            target = Path(arguments[-1])
            subprocess.run(["mount", *arguments], check=True)
            made.append(target)
            if target == root / "dev":
                fill_dev(target)
        for bind in [*(Bind(Path(path), path) for path in _LOOKED_UP if Path(path).exists()), *binds]:
            target = root / bind.target.lstrip("/")
            _make_place(bind.source, target)
            subprocess.run(["mount", "--bind", bind.source, target], check=True)
            made.append(target)
            if not bind.is_writable:
                subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
        yield
    finally:
        for target in reversed(made):
            subprocess.run(["umount", "--recursive", target], check=True)


def root_mounts(root: Path) -> list[list[str]]:
    """Arguments of `mount`, in order, the place last."""
    return [
        ["-t", "proc", "proc", f"{root}/proc"],
        ["-t", "tmpfs", "-o", "mode=755,size=1m", "tmpfs", f"{root}/dev"],
    ]


def fill_dev(dev: Path) -> None:
    """Bind the devices that are harmless, and give programs 64 MiB of shared memory, as container engines do."""
    for name in _DEVICES:
        (dev / name).touch()
        subprocess.run(["mount", "--bind", f"/dev/{name}", dev / name], check=True)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")
    (dev / "fd").symlink_to("/proc/self/fd")
    (dev / "shm").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777,size=64m", "tmpfs", dev / "shm"], check=True)


def _make_place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir(exist_ok=True)
    elif not target.exists():
        target.touch()


def size_of(folder: Path) -> int:
    """Count the bytes that a folder takes of the disk."""
    counted = subprocess.run(["du", "-sx", "--block-size=1", folder], capture_output=True, text=True, check=True)
    return int(counted.stdout.split()[0])


def environment(own: Mapping[str, str], *, home: str) -> list[str]:
    """What a process inside sees, and nothing else of this machine's but its proxies."""
    proxies = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    return [f"{key}={value}" for key, value in {"PATH": PATH, "HOME": home, **proxies, **own}.items()]


def run(command: Sequence[str], log: Path) -> None:
    """Run a command, its output behind that of the others in the log.

    Raises:
        StepError: it failed; the end of its output is part of the message.
    """
    with log.open("ab") as out:
        begin = out.tell()
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False).returncode
    if code:
        said = log.read_bytes()[begin:].decode(errors="replace").splitlines()[-25:]
        raise StepError("\n".join([f"exit {code}: {' '.join(map(str, command))}", *said]))

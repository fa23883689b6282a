"""Replay the Dockerfile without a container engine, and try what comes out.

A Debian made by debootstrap stands in for the base image. Every RUN, COPY, ENV, USER and WORKDIR of the target's stages
is carried out in it; then the entry point runs as the image's user, in namespaces of its own, with the root read-only:
it must become healthy, make a video for a client outside, reap ranks whose parents were killed, stop when it is told
to, and go on with its volume. Packages come from where this machine takes its own.

Nothing outside one temporary folder is written, nothing is mounted for anybody else, and the folder is removed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.replay import host
from scripts.replay.build import Build
from scripts.replay.container import Image
from scripts.replay.dockerfile import Dockerfile, DockerfileError
from scripts.replay.root import StepError, size_of
from scripts.replay.trial import try_image

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Check what is needed, then do everything in namespaces of its own."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="cpu", help="a stage of the Dockerfile (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=24, help="of the video (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the folder, with the image's files and the logs")
    parser.add_argument("--build-only", action="store_true", help="do not run the image: cuda needs a GPU for that")
    parser.add_argument("--pip-conf", type=Path, metavar="FILE", help="where pip looks, instead of where it does here")
    parser.add_argument("--within", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.within is not None:
        return _replay(arguments)
    if arguments.pip_conf is not None and not arguments.pip_conf.is_file():
        parser.error(f"--pip-conf: {arguments.pip_conf} is no file")
    if why := host.missing():
        print(f"replay: {why}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="vinf-replay-"))
    folder.chmod(0o755)  # the image's user must find its files in there
    # Should this be killed, unshare is; should that be, everything in its namespaces.
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    command += ["--mount-proc", sys.executable, "-m", "scripts.replay", *sys.argv[1:], "--within", str(folder)]
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    inner = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": _path()})
    try:
        return inner.wait()
    except KeyboardInterrupt:
        return 130
    finally:
        inner.kill()
        inner.wait()
        if arguments.keep:
            print(f"replay: everything is in {folder}")
        else:
            _remove(folder)


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _replay(arguments: argparse.Namespace) -> int:
    folder = arguments.within
    began = time.monotonic()
    settings = host.pip_settings(arguments.pip_conf)
    secret = folder / "pip.conf"
    secret.write_text(host.pip_file(settings))
    try:
        file = Dockerfile.read(ROOT / "Dockerfile")
        build = Build(file, ROOT, folder, {"pip.conf": (secret, host.pip_places(settings))}, {}, _tell)
        made = build.make(arguments.target)
        whole, libraries = size_of(made.root) >> 20, size_of(made.root / "opt/vinf") >> 20
        _tell(f"           the image: {whole} MiB, of it /opt/vinf {libraries} MiB; disk: {build.peak_bytes >> 20} MiB")
        if not arguments.build_only:
            image = Image.of(file, arguments.target, made.root, made.env, made.user, made.workdir)
            try_image(image, folder, arguments.frames, _tell)
    except (StepError, DockerfileError, KeyError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 1
    _tell(f"{time.monotonic() - began:7.1f} s  in all")
    return 0


def _tell(line: str) -> None:
    print(line, flush=True)


def _remove(folder: Path) -> None:
    """Remove the folder; never what is mounted there, should anything be."""
    if f" {folder}" in Path("/proc/self/mountinfo").read_text():
        print(f"replay: something is mounted in {folder}; it stays", file=sys.stderr)
        return
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())

"""Stages of a Dockerfile, made one after the other, each in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from scripts.replay.context import context_files
from scripts.replay.dockerfile import Dockerfile, DockerfileError, Instruction, Stage, expand
from scripts.replay.root import PATH, Bind, StepError, environment, make_debian, mounted, run, size_of

_OF_THE_IMAGE = {"CMD", "ENTRYPOINT", "EXPOSE", "HEALTHCHECK", "LABEL", "STOPSIGNAL", "VOLUME"}
"""Instructions that change no file."""


@dataclass(frozen=True, slots=True)
class Made:
    """A stage as far as it got."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    workdir: str = "/"


@dataclass(slots=True)
class Build:
    """Makes the stages of one Dockerfile.

    Attributes:
        file: what to replay.
        context: the folder that COPY takes files from.
        folder: an empty one, for everything.
        secrets: what ``RUN --mount=type=secret`` gets, by its id: the file itself, then what it speaks of; read-only.
        arguments: values for ARG.
        told: called with a line about every step that took time.
    """

    file: Dockerfile
    context: Path
    folder: Path
    secrets: Mapping[str, tuple[Path, tuple[Bind, ...]]]
    arguments: Mapping[str, str]
    told: Callable[[str], None]

    peak_bytes: int = 0
    """The most that the folder held behind a stage."""

    @property
    def log(self) -> Path:
        """Everything the steps printed."""
        return self.folder / "build.log"

    def make(self, target: str) -> Made:
        """Make a target and the stages it needs.

        Raises:
            StepError: a command failed.
            DockerfileError: the file says what the replay does not know.
        """
        made: dict[str, Made] = {}
        base = self.folder / "image"
        base.mkdir()
        image = self.file.image(target)
        release = image.partition(":")[2].removesuffix("-slim")
        with self._timed(f"{image}: debootstrap --variant=minbase {release} in its place"):
            make_debian(base, release, self.log)
        self._measure()
        needed = self.file.needed(target)
        made[image] = Made(base, {"PATH": PATH})
        for position, stage in enumerate(needed):
            made[stage.name] = self._make_stage(stage, made)
            self._measure()
            # What no later stage looks at is removed: several gigabytes for CUDA.
            later = {name for other in needed[position + 1 :] for name in (other.parent, *other.sources)}
            for name in [name for name in made if name not in later and name != target]:
                shutil.rmtree(made.pop(name).root)
        return made[target]

    def _measure(self) -> None:
        self.peak_bytes = max(self.peak_bytes, size_of(self.folder))

    def _make_stage(self, stage: Stage, made: Mapping[str, Made]) -> Made:
        parent = made[stage.parent]
        now = Made(self.folder / stage.name, dict(parent.env), parent.user, parent.workdir)
        subprocess.run(["cp", "--archive", "--one-file-system", parent.root, now.root], check=True)
        arguments: dict[str, str] = {}
        for step in stage.instructions:
            known = {**arguments, **now.env}
            match step.name:
                case "ARG":
                    name, _, default = step.value.partition("=")
                    if value := self.arguments.get(name) or default or self.file.arguments.get(name):
                        arguments[name] = value
                case "ENV":
                    now.env.update({key: expand(value, known) for key, value in step.pairs.items()})
                case "USER":
                    now = Made(now.root, now.env, expand(step.value, known), now.workdir)
                case "WORKDIR":
                    now = Made(now.root, now.env, now.user, os.path.join(now.workdir, expand(step.value, known)))
                    self._inside(now.root, now.workdir).mkdir(parents=True, exist_ok=True)
                case "COPY":
                    self._copy(step, now, made)
                case "RUN":
                    with self._timed(f"{stage.name}: RUN {' '.join(step.value.split())}"):
                        self._run(step, now, arguments)
                case name if name not in _OF_THE_IMAGE:
                    raise DockerfileError(f"line {step.line}: {name} is not known to the replay")
        return now

    def _run(self, step: Instruction, now: Made, arguments: Mapping[str, str]) -> None:
        binds = []
        for name, value in step.flags:
            options = dict(option.partition("=")[::2] for option in value.split(","))
            if name != "mount" or options.get("type") not in ("cache", "secret"):
                raise DockerfileError(f"line {step.line}: RUN --{name}={value} is not known to the replay")
            place = options["target"]
            if options["type"] == "cache":
                cache = self.folder / "caches" / place.strip("/").replace("/", "-")
                cache.mkdir(parents=True, exist_ok=True)
                binds.append(Bind(cache, place, is_writable=True))
            elif options["id"] in self.secrets:
                file, spoken_of = self.secrets[options["id"]]
                binds += [Bind(file, place), *spoken_of]
        command = step.words if step.is_exec_form else ["/bin/sh", "-c", step.value]
        inside = ["env", "-i", "-C", now.workdir, *environment({**arguments, **now.env}, home="/root"), *command]
        places = [now.root / bind.target.strip("/") for bind in binds]
        new = [place for place in places if not place.exists()]
        with mounted(now.root, binds):
            run(["chroot", f"--userspec={now.user}", str(now.root), *inside], self.log)
        for left in new:
            left.rmdir() if left.is_dir() else left.unlink()

    def _copy(self, step: Instruction, now: Made, made: Mapping[str, Made]) -> None:
        if unknown := [name for name, _ in step.flags if name != "from"]:
            raise DockerfileError(f"line {step.line}: COPY --{unknown[0]} is not known to the replay")
        *sources, place = step.words
        target = self._inside(now.root, os.path.join(now.workdir, place))
        is_folder = place.endswith(("/", ".")) or len(sources) > 1
        stage = step.flag("from")
        found = 0
        for source in sources:
            if stage:
                found += self._copy_from(made[stage].root, source, target, is_folder=is_folder)
            else:
                found += self._copy_context(source, target, is_folder=is_folder)
        if not found:
            raise StepError(f"line {step.line}: COPY {step.value}: there is no such file")

    def _copy_from(self, root: Path, pattern: str, target: Path, *, is_folder: bool) -> int:
        paths = sorted(root.glob(pattern.lstrip("/")))
        for path in paths:
            place = target / path.name if is_folder and not path.is_dir() else target
            place.parent.mkdir(parents=True, exist_ok=True)
            source = f"{path}/." if path.is_dir() else str(path)
            subprocess.run(["cp", "--archive", "--no-target-directory", source, place], check=True)
        return len(paths)

    def _copy_context(self, source: str, target: Path, *, is_folder: bool) -> int:
        wanted = PurePosixPath(source)
        count = 0
        for path in context_files(self.context):
            if path == wanted:
                place = target / path.name if is_folder else target
            elif path.is_relative_to(wanted):
                place = target / path.relative_to(wanted)
            else:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.context / path, place)
            count += 1
        return count

    @staticmethod
    def _inside(root: Path, path: str) -> Path:
        """Where a path of an image lies; one that would lead out of the root is an error."""
        found = (root / path.lstrip("/")).resolve()
        if not found.is_relative_to(root.resolve()):
            raise StepError(f"{path} leads out of the root")
        return found

    def _timed(self, what: str) -> ExitStack:
        began = time.monotonic()
        stack = ExitStack()
        short = what if len(what) <= 100 else f"{what[:99]}…"
        stack.callback(lambda: self.told(f"{time.monotonic() - began:7.1f} s  {short}"))
        return stack

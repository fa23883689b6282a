"""A Dockerfile as stages of instructions: as much of its language as ours uses, and an error for the rest."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_KNOWN = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL"}
_KNOWN |= {"USER", "VOLUME", "WORKDIR"}
_FLAG = re.compile(r"--([a-z-]+)(?:=(\S*))?\s+")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class DockerfileError(ValueError):
    """The file says what this cannot replay; the message names the line."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        name: in capitals.
        flags: what stands before the value, in order: ``("mount", "type=cache,target=/x")``.
        value: the rest, as it is written.
        line: of the file, from 1.
    """

    name: str
    flags: tuple[tuple[str, str], ...]
    value: str
    line: int

    @property
    def words(self) -> list[str]:
        """The list of an exec form, or the words of the value."""
        return json.loads(self.value) if self.value.startswith("[") else shlex.split(self.value)

    @property
    def is_exec_form(self) -> bool:
        """True when the value is a list that no shell reads."""
        return self.value.startswith("[")

    @property
    def pairs(self) -> dict[str, str]:
        """The value as KEY=VALUE; DockerfileError where a word is none."""
        words = [word.partition("=") for word in self.words]
        if wrong := [key for key, equals, _ in words if not equals]:
            raise DockerfileError(f"line {self.line}: {self.name} {wrong[0]}: write KEY=VALUE")
        return {key: value for key, _, value in words}

    def flag(self, name: str) -> str:
        """The value of a flag that is given at most once; empty when it is not."""
        return dict(self.flags).get(name, "")


@dataclass(frozen=True, slots=True)
class Stage:
    """What one FROM begins."""

    name: str
    parent: str
    """Another stage, or an image."""
    instructions: list[Instruction] = field(default_factory=list)

    @property
    def sources(self) -> set[str]:
        """Stages whose files it copies."""
        return {step.flag("from") for step in self.instructions if step.name == "COPY"} - {""}


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """All stages, in order, and the arguments before the first one."""

    stages: dict[str, Stage]
    arguments: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Dockerfile:
        """Read a file; DockerfileError for what this does not know."""
        arguments: dict[str, str] = {}
        stages: dict[str, Stage] = {}
        stage = None
        for step in _instructions(path.read_text()):
            if step.name == "FROM":
                words = step.words
                if len(words) != 3 or words[1].upper() != "AS":
                    raise DockerfileError(f"line {step.line}: every stage needs a name: FROM IMAGE AS NAME")
                stage = Stage(words[2], expand(words[0], arguments))
                stages[stage.name] = stage
            elif stage is not None:
                stage.instructions.append(step)
            elif step.name == "ARG":
                name, _, default = step.value.partition("=")
                arguments[name] = default
            else:
                raise DockerfileError(f"line {step.line}: {step.name} stands before the first FROM")
        return cls(stages, arguments)

    def needed(self, target: str) -> list[Stage]:
        """The stages that a target is made of, in the order of the file; KeyError: there is no such target."""
        wanted, found = [target], set()
        while wanted:
            name = wanted.pop()
            found.add(name)
            stage = self.stages[name]
            wanted += [other for other in {stage.parent, *stage.sources} if other in self.stages and other not in found]
        return [stage for name, stage in self.stages.items() if name in found]

    def image(self, target: str) -> str:
        """The image that a target begins with."""
        parent = self.stages[target].parent
        return self.image(parent) if parent in self.stages else parent

    def last(self, target: str, name: str) -> Instruction | None:
        """The instruction of that name that is in force in a target's image."""
        stage = self.stages.get(target)
        if stage is None:
            return None
        own = [step for step in stage.instructions if step.name == name]
        return own[-1] if own else self.last(stage.parent, name)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Put variables in; one that is not known is empty."""
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], ""), text)


def _instructions(text: str) -> list[Instruction]:
    found = []
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue  # also between the lines of one instruction
        start = start if pending else number
        if line.endswith("\\"):
            pending += line[:-1]
            continue
        found.append(_instruction(pending + line, start))
        pending = ""
    if pending:
        raise DockerfileError(f"line {start}: the last line ends with a backslash")
    return found


def _instruction(text: str, line: int) -> Instruction:
    name, _, value = text.strip().partition(" ")
    name, value = name.upper(), value.strip()
    if name not in _KNOWN:
        raise DockerfileError(f"line {line}: {name} is not known to the replay")
    if "<<" in value and name in ("RUN", "COPY"):
        raise DockerfileError(f"line {line}: the replay knows no here-documents")
    flags = []
    if name in ("RUN", "COPY", "FROM", "HEALTHCHECK"):
        while match := _FLAG.match(value):
            flags.append((match[1], match[2] or ""))
            value = value[match.end() :]
    return Instruction(name, tuple(flags), value, line)

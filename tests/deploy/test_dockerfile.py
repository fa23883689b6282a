"""The Dockerfile says what the code and its metadata say."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from scripts.replay.context import context_files
from scripts.replay.dockerfile import Dockerfile
from vinf_client.cli.health import build_parser as health_parser
from vinf_client.cli.values import duration
from vinf_server.cli import parse_config
from vinf_server.config import ServeConfig

ROOT = Path(__file__).parents[2]
TARGETS = ("cpu", "cuda")
PYTHON_OF = {"bookworm": "3.11", "trixie": "3.13"}
"""Debian's own, by release."""


@pytest.fixture(scope="module")
def file() -> Dockerfile:
    return Dockerfile.read(ROOT / "Dockerfile")


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def context() -> list[PurePosixPath]:
    return list(context_files(ROOT))


@pytest.mark.process
def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.fast
def test_the_versions_are_those_of_the_project(file: Dockerfile, project: dict[str, object]) -> None:
    label = file.last("cpu", "LABEL")
    assert label is not None
    assert label.pairs["org.opencontainers.image.version"] == project["version"]
    assert label.pairs["org.opencontainers.image.licenses"] == project["license"]
    image = file.image("cpu")
    assert label.pairs["org.opencontainers.image.base.name"] == image
    release = re.fullmatch(r"debian:(\w+)-slim", image)
    assert release is not None
    python = PYTHON_OF[release[1]]
    assert python in SpecifierSet(str(project["requires-python"]))
    assert environment(file, "build")["TORCH"] == f"/opt/vinf/lib/python{python}/site-packages/torch"


@pytest.mark.fast
@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_the_server_as_nobody_special(file: Dockerfile, target: str) -> None:
    user, entry, stop = (file.last(target, name) for name in ("USER", "ENTRYPOINT", "STOPSIGNAL"))
    assert user is not None
    assert entry is not None
    assert stop is not None
    assert user.value == "10001:10001", "a number: Kubernetes cannot tell that a name is not root"
    assert entry.is_exec_form, "a shell would not pass signals on"
    assert entry.words == ["tini", "-s", "--", "vinf"]
    assert stop.value == "SIGTERM"


@pytest.mark.fast
@pytest.mark.parametrize("target", TARGETS)
def test_the_command_is_one_that_the_server_takes(
    file: Dockerfile, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, volume, expose = (file.last(target, name) for name in ("CMD", "VOLUME", "EXPOSE"))
    assert command is not None
    assert volume is not None
    assert expose is not None
    env = {key: value for stage in ("runtime", target) for key, value in environment(file, stage).items()}
    monkeypatch.setenv("XDG_STATE_HOME", env["XDG_STATE_HOME"])
    assert command.words[0] == "serve"
    config = parse_config(command.words[1:])
    assert config.metrics is not None
    assert {str(config.listen.port), str(config.metrics.port)} == set(expose.words)
    assert not config.listen.is_loopback, "nobody outside a container could reach it"
    assert not config.metrics.is_loopback
    assert config.listen.port == ServeConfig(ranks=1).listen.port, "the health check asks at the usual port"
    assert config.data_dir.is_relative_to(volume.value), "what is not on the volume is lost with the container"


def environment(file: Dockerfile, stage: str) -> dict[str, str]:
    return {
        key: value
        for step in file.stages[stage].instructions
        if step.name == "ENV"
        for key, value in step.pairs.items()
    }


@pytest.mark.fast
def test_the_health_check_is_one_that_the_client_takes(file: Dockerfile) -> None:
    check = file.last("cpu", "HEALTHCHECK")
    assert check is not None
    shell = re.fullmatch(r'CMD \["sh", "-c", "vinf health(.*) \|\| exit 1"\]', check.value)
    assert shell is not None, "engines know the exit codes 0 and 1 alone"
    arguments = health_parser().parse_args(shell[1].split())
    assert arguments.timeout < duration(check.flag("timeout")), "the client must have the last word"


@pytest.mark.fast
def test_what_is_copied_exists(file: Dockerfile, context: list[PurePosixPath]) -> None:
    known: set[str] = set()
    for stage in file.stages.values():
        for step in stage.instructions:
            if step.name != "COPY":
                continue
            if step.flag("from"):
                assert step.flag("from") in known, f"line {step.line}: no stage before it has that name"
                continue
            for source in step.words[:-1]:
                found = any(path.is_relative_to(source) for path in context)
                assert found, f"line {step.line}: {source} is not in the build's context"
        known.add(stage.name)


@pytest.mark.fast
def test_the_context_has_the_package_and_nothing_else(context: list[PurePosixPath]) -> None:
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in ("gen", "server", "client/vinf_client", "vinf_core", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in path.as_posix()
    }
    more = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "scripts/requirements.py"}
    assert {path.as_posix() for path in context} == sources | more


@pytest.mark.fast
@pytest.mark.parametrize("target", TARGETS)
def test_no_build_tool_is_left_in_an_image(file: Dockerfile, target: str) -> None:
    """What its own stages install is there; what it copies comes from an environment without pip."""
    tools = re.compile(r"\bpip\b|python3-pip|-dev\b|build-essential|\bgcc\b|\bgit\b")
    name = target
    while stage := file.stages.get(name):
        assert not [step.value for step in stage.instructions if step.name == "RUN" and tools.search(step.value)]
        name = stage.parent
    (made,) = [step for step in file.stages["build"].instructions if step.name == "RUN"]
    assert "venv --without-pip /opt/vinf" in made.value


EXTRAS = ("server", "client", "fp8")
"""What the Dockerfile installs."""


@pytest.mark.process
def test_all_that_is_installed_is_pinned(project: dict[str, object]) -> None:
    assert f"scripts/requirements.py {' '.join(EXTRAS)} >" in (ROOT / "Dockerfile").read_text()
    command = [sys.executable, ROOT / "scripts/requirements.py", *EXTRAS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    wanted = {Requirement(line).name.lower() for line in done.stdout.split("\n") if line}
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert wanted <= {name.lower().replace("_", "-") for name in pinned}
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    direct = {Requirement(line).name.lower() for name in EXTRAS for line in extras[name]}
    assert direct <= wanted

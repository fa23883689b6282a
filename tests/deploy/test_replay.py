"""The replay of the Dockerfile: what it reads, what it refuses, and what it copies where."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from scripts.replay import build as builds
from scripts.replay import host
from scripts.replay.build import Build
from scripts.replay.container import Image, health_command
from scripts.replay.context import Ignored
from scripts.replay.dockerfile import Dockerfile, DockerfileError, expand
from scripts.replay.root import PATH, Bind, StepError

ROOT = Path(__file__).parents[2]

SMALL = """
# a comment
ARG BASE=debian:bookworm-slim
FROM ${BASE} AS base
ENV WHERE=/opt \\
    # between the lines of one instruction
    WHAT="two words"
ENV PATH=/opt/bin:$PATH
WORKDIR ${WHERE}/app
FROM base AS other
COPY a.txt sub/*.md ./
FROM base AS final
ARG REVISION
COPY . .
COPY --from=other /opt/app/*.txt copied/
COPY --from=other /opt/app /
USER 7:8
VOLUME /data
EXPOSE 50051 9464
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s CMD ["sh", "-c", "true || exit 1"]
ENTRYPOINT ["a", "--"]
CMD ["b", "c d"]
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.txt", "left-out.txt", "sub/b.txt"):
        (folder / name).write_text(name)
    (folder / ".dockerignore").write_text("left-out.txt\n")
    return folder


def written(folder: Path, text: str) -> Dockerfile:
    path = folder / "Dockerfile"
    path.write_text(text)
    return Dockerfile.read(path)


@pytest.mark.fast
def test_instructions_flags_and_words(tmp_path: Path) -> None:
    file = written(tmp_path, SMALL)
    assert {stage.name: stage.parent for stage in file.stages.values()} == {
        "base": "debian:bookworm-slim",
        "other": "base",
        "final": "base",
    }
    env, path, workdir = file.stages["base"].instructions
    assert env.pairs == {"WHERE": "/opt", "WHAT": "two words"}
    assert (env.line, path.line, workdir.line) == (5, 8, 9)
    (copied,) = [step for step in file.stages["final"].instructions if step.line == 15]
    assert (copied.flag("from"), copied.words) == ("other", ["/opt/app/*.txt", "copied/"])
    assert [stage.name for stage in file.needed("other")] == ["base", "other"]
    assert [stage.name for stage in file.needed("final")] == ["base", "other", "final"]
    assert file.image("final") == "debian:bookworm-slim"


@pytest.mark.fast
def test_what_an_engine_would_know_of_the_image(tmp_path: Path) -> None:
    image = Image.of(written(tmp_path, SMALL), "final", tmp_path, {}, "7:8", "/")
    assert image.command == ["a", "--", "b", "c d"]
    assert (image.stop_signal.name, image.volumes, image.ports) == ("SIGINT", ["/data"], [50051, 9464])
    assert image.health == ["sh", "-c", "true || exit 1"]
    with pytest.raises(StepError, match="exec form alone"):
        health_command("CMD true")
    with pytest.raises(KeyError, match="base has no ENTRYPOINT, CMD"):
        Image.of(written(tmp_path, SMALL), "base", tmp_path, {}, "", "/")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM a AS b\nADD x y\n", "line 2: ADD is not known"),
        ("FROM a AS b\nRUN cat <<END\n", "line 2: the replay knows no here-documents"),
        ("FROM a\n", "line 1: every stage needs a name"),
        ("RUN x\nFROM a AS b\n", "line 1: RUN stands before the first FROM"),
        ("FROM a AS b\nRUN x \\\n", "line 2: the last line ends with a backslash"),
    ],
)
def test_what_it_does_not_know_is_refused_by_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DockerfileError, match=words):
        written(tmp_path, text)


@pytest.mark.fast
def test_variables() -> None:
    assert expand("$A-${B}/${C}$", {"A": "1", "B": "2"}) == "1-2/$"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("README.md", True),
        ("server/a.py", False),
        ("server/deep/a.py", False),
        ("server/deep/__pycache__/a.pyc", True),
        ("scripts/a.py", True),
        ("scripts/requirements.py", False),
        ("servers/a.py", True),
        ("server/x.egg-info/PKG-INFO", True),
    ],
)
def test_dockerignore(path: str, ignored: bool) -> None:
    rules = Ignored("*\n!server\n!scripts\nscripts/*\n!scripts/requirements.py\n**/__pycache__\n**/*.egg-info\n# end")
    assert rules(PurePosixPath(path)) is ignored


@pytest.fixture
def build(tmp_path: Path, context: Path, monkeypatch: pytest.MonkeyPatch):
    """Make a target of a small Dockerfile, without a Debian in it."""

    def no_debian(folder: Path, release: str, log: Path) -> None:
        assert release == "bookworm"
        (folder / "etc").mkdir()

    monkeypatch.setattr(builds, "make_debian", no_debian)

    def make(text: str, target: str):
        folder = tmp_path / "made"
        folder.mkdir()
        return Build(written(tmp_path, text), context, folder, {}, {}, lambda line: None).make(target)

    return make


@pytest.mark.process
def test_stages_and_copies(build) -> None:
    text = SMALL.replace("COPY a.txt sub/*.md ./", "COPY a.txt sub/b.txt ./")
    made = build(text, "final")
    files = {path.relative_to(made.root).as_posix() for path in made.root.rglob("*") if path.is_file()}
    assert files == {
        *("opt/app/a.txt", "opt/app/sub/b.txt", "opt/app/.dockerignore"),  # COPY . .
        *("opt/app/copied/a.txt", "opt/app/copied/b.txt"),
        *("a.txt", "b.txt"),
    }
    paths = {"PATH": f"/opt/bin:{PATH}"}
    assert (made.env, made.user, made.workdir) == ({"WHERE": "/opt", "WHAT": "two words", **paths}, "7:8", "/opt/app")
    assert sorted(path.name for path in made.root.parent.iterdir() if path.is_dir()) == ["final"], "others are removed"


@pytest.mark.process
def test_what_is_not_there_cannot_be_copied(build) -> None:
    with pytest.raises(StepError, match=r"line 3: COPY left-out.txt .: there is no such file"):
        build("FROM debian:bookworm-slim AS a\nWORKDIR /b\nCOPY left-out.txt .\n", "a")


@pytest.mark.process
def test_nothing_is_written_outside_the_root(build, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(StepError, match="leads out of the root"):
        build("FROM debian:bookworm-slim AS a\nCOPY a.txt ../../outside/\n", "a")
    assert not list(outside.iterdir())


@pytest.mark.fast
def test_pip_finds_inside_what_it_finds_outside(tmp_path: Path) -> None:
    wheels, index = tmp_path / "wheels", tmp_path / "index" / "simple"
    wheels.mkdir()
    index.mkdir(parents=True)
    settings = {
        "extra-index-url": ["https://example.org/simple", index.as_uri()],
        "find-links": [str(wheels), str(tmp_path / "gone")],
        "timeout": ["60"],
    }
    assert host.pip_places(settings) == (Bind(index.parent, str(index.parent)), Bind(wheels, str(wheels)))
    file = tmp_path / "pip.conf"
    file.write_text(host.pip_file(settings) + "[install]\nno-binary = x\nfind-links =\n    /c\n")
    more = {**settings, "find-links": [*settings["find-links"], "/c"]}
    assert host.pip_settings(file) == more
    assert host.pip_file({"timeout": ["60"], "find-links": ["/a", "/b"]}) == (
        "[global]\ntimeout = 60\nfind-links = /a /b\n"
    )


@pytest.mark.process
def test_its_help_and_its_refusal() -> None:
    command = [sys.executable, "-m", "scripts.replay"]
    done = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "debootstrap stands in for the base image" in " ".join(done.stdout.split())
    without_tools = {**os.environ, "PATH": "/nowhere"}
    done = subprocess.run(command, cwd=ROOT, env=without_tools, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("replay: ")
    assert len(done.stderr.splitlines()) == 1

"""The rooms hold: who may import what, as the table in ARCHITECTURE.md says."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("vinf_core", "server/vinf_server", "client/vinf_client", "benchmarks")
HEAVY = ("torch", "diffusers", "transformers", "vinf_core")

MAY_TALK_TO_TORCH_DISTRIBUTED = (
    "vinf_core/distributed/",
    "server/vinf_server/agent_shim.py",
    "server/vinf_server/rank/preload.py",
)
"""The room for it, and the shim that runs torchrun and nothing else."""

IMPORT_ALL = """
import importlib, pkgutil, sys

forbidden, roots = sys.argv[1].split(","), sys.argv[2:]
names = []
for root in roots:
    names.append(root)
    path = getattr(importlib.import_module(root), "__path__", None)
    if path is not None:
        names += [module.name for module in pkgutil.walk_packages(path, root + ".")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
    loaded = [module for module in forbidden if module in sys.modules]
    if loaded:
        sys.exit(f"after importing {name}: {', '.join(loaded)} is loaded")
print(len(names))
"""


def python_files() -> Iterator[tuple[str, ast.Module]]:
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(), str(path))


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported anywhere in a file, and every dotted name that reads like ``torch.distributed``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


@pytest.mark.process
def test_import_contracts_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    ("roots", "forbidden"),
    [
        (["vinf_client"], [*HEAVY, "vinf_server", "prometheus_client"]),
        (
            ["vinf_server.front", "vinf_server.config", "vinf_server.agent_shim"],
            [*HEAVY, "vinf_server.rank", "vinf_client"],
        ),
        # What is written of the models, and nothing that computes with them.
        (
            ["vinf_server.cli", "vinf_server.worker", "vinf_server.models"],
            ["torch", "diffusers", "transformers", "vinf_core.models.adapter", "vinf_server.rank", "vinf_client"],
        ),
    ],
    ids=["client", "front", "commands"],
)
def test_no_module_loads_what_its_room_forbids(roots: list[str], forbidden: list[str]) -> None:
    """Really imported, so that what a dependency drags in counts too."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, ",".join(forbidden), *roots],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= len(roots), "nothing was imported"


@pytest.mark.fast
def test_one_room_talks_to_torch_distributed() -> None:
    offenders = [
        name
        for name, tree in python_files()
        if not name.startswith(MAY_TALK_TO_TORCH_DISTRIBUTED)
        and any(
            module == "torch.distributed" or module.startswith("torch.distributed.")
            for module in imported_modules(tree)
        )
    ]
    assert not offenders, (
        f"only {MAY_TALK_TO_TORCH_DISTRIBUTED[0]} imports torch.distributed, these do too: {offenders}"
    )


@pytest.mark.fast
def test_every_module_says_what_it_is() -> None:
    silent = [name for name, tree in python_files() if not ast.get_docstring(tree)]
    assert not silent, f"modules without a docstring: {silent}"

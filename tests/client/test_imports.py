"""The client stands alone: it loads nothing of the server or of torch, and not even numpy before it is needed."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

FORBIDDEN = ("torch", "diffusers", "transformers", "vinf_core", "vinf_server", "prometheus_client")


def loaded_after(program):
    check = "\nimport sys\nprint(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", program + check], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_whole_client_loads_nothing_of_the_server():
    program = (
        "import pkgutil, importlib, vinf_client\n"
        "for module in pkgutil.walk_packages(vinf_client.__path__, 'vinf_client.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "for name in vinf_client.__all__:\n"
        "    getattr(vinf_client, name)\n"
    )
    loaded = loaded_after(program)
    assert "grpc" in loaded
    assert not loaded & set(FORBIDDEN)


def test_the_dispatcher_is_light():
    loaded = loaded_after("from vinf_client.cli import main\nmain(['--help'])")
    assert not loaded & {*FORBIDDEN, "numpy", "grpc", "google", "av", "rich", "PIL"}


def test_python_m():
    done = subprocess.run(
        [sys.executable, "-m", "vinf_client.cli", "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("vinf ")

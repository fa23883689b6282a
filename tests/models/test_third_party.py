"""docs/adapters.md, followed to the letter: a package of somebody else's, found by its entry point."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.packages import install
from tests.support.published import save_modelscope
from vinf_core.errors import ConfigError, ModelNotFoundError
from vinf_core.models.catalogue import catalogue
from vinf_core.models.locate import ModelSource
from vinf_core.models.registry import load_model
from vinf_server.models import main

pytestmark = pytest.mark.fast

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"
BLOCK = re.compile(r'```\w+ title="([^"]+)"\n(.*?)```', re.DOTALL)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for installed packages, holding the one of the page."""
    make_site(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    catalogue.cache_clear()
    yield tmp_path
    catalogue.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "vinf_toy"]:
        del sys.modules[name]


def make_site(folder: Path) -> None:
    """Install the package of the page into a folder."""
    files = dict(BLOCK.findall(PAGE.read_text()))
    assert set(files) == {"vinf_toy/__init__.py", "pyproject.toml", "vinf_toy/adapter.py"}
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    save_modelscope(folder / "vinf_toy" / "weights")
    install(folder, project["name"], project["version"], project["entry-points"])


def test_it_is_listed_and_loaded(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toy"]) == 0
    out = capsys.readouterr().out
    assert "option         mood=calm|wild (calm by default)" in out
    assert "images         taken for the first frame" in out
    assert main(["sprites"]) == 0
    assert "images         none taken" in capsys.readouterr().out
    source = ModelSource(model="toy", offline=True)
    for options, guidance in (({}, 3.0), ({"mood": "wild"}, 9.0)):
        model = load_model(source, options=options, device=torch.device("cpu"), dtype=torch.float32)
        assert model.limits.default_guidance_scale == guidance
    latents = torch.randn(3, *model.latent_shape(64, 64))
    text = model.encode_text(["a red ball"])[None].repeat(1, 3, 1, 1)
    assert model.decode(model.predict(latents, 500.0, text)).shape == (3, 64, 64, 3)
    with pytest.raises(ConfigError, match=r"mood=sad is not one of calm, wild"):
        load_model(source, options={"mood": "sad"}, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere:CARD", "cannot be loaded: No module named 'nowhere'"),
        ("vinf_toy:Path", "is a type, not a ModelCard"),
        ("vinf_core.models.catalogue:BUILT_IN", "is a tuple, not a ModelCard"),
    ],
)
def test_packages_that_offer_something_else(
    site: Path, target: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "vinf-broken", "1", {"vinf.models": {"broken": target}})
    catalogue.cache_clear()
    with pytest.raises(ModelNotFoundError, match=words):
        catalogue()
    assert main([]) == 2
    assert words in capsys.readouterr().err


def test_a_name_that_is_taken(site: Path) -> None:
    (site / "vinf_other.py").write_text((site / "vinf_toy" / "__init__.py").read_text().replace('"toy"', '"sprites"'))
    install(site, "vinf-other", "1", {"vinf.models": {"other": "vinf_other:CARD"}})
    catalogue.cache_clear()
    with pytest.raises(ModelNotFoundError, match=r"offers 'sprites', a name that is taken"):
        catalogue()


def test_an_adapter_that_is_missing(site: Path) -> None:
    (site / "vinf_toy" / "adapter.py").unlink()
    with pytest.raises(ModelNotFoundError, match=r"vinf_toy.adapter, which loads toy: No module named"):
        load_model(ModelSource(model="toy"), device=torch.device("cpu"), dtype=torch.float32)

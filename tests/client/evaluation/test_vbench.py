"""`--vbench` against a package that stands in for VBench: what it is asked, and what is done without its weights."""

import os

import numpy as np
import pytest

from vinf_client import InvalidRequestError
from vinf_client.evaluation import vbench

FAKE = """
import json, os, pathlib
class VBench:
    def __init__(self, device, info, output):
        assert os.path.basename(info) == "VBench_full_info.json"
        self.output = output
    def evaluate(self, videos_path, name, dimension_list, local, mode):
        assert local and mode == "custom_input" and os.path.isfile(videos_path)
        if "broken" in videos_path:
            raise RuntimeError("no frames")
        found = {dimension: [0.5, []] for dimension in dimension_list}
        pathlib.Path(self.output, name + "_eval_results.json").write_text(json.dumps(found))
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A stand-in for the packages, and a cache with two of its weights."""
    (tmp_path / "vbench").mkdir()
    (tmp_path / "vbench" / "__init__.py").write_text(FAKE)
    # The real torch takes seconds to load, and has no part in this.
    (tmp_path / "torch.py").write_text(
        "def device(name): return name\nclass cuda:\n    is_available = staticmethod(lambda: False)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(tmp_path)
    cache = tmp_path / "cache"
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(cache))
    for name in ("imaging_quality", "motion_smoothness"):
        for file in vbench.WEIGHTS[name]:
            (cache / file).parent.mkdir(parents=True)
            (cache / file).write_bytes(b"")
    return tmp_path


@pytest.mark.process
def test_scores_of_the_dimensions_whose_weights_are_here(installed):
    video, broken = installed / "a.gif", installed / "broken.gif"
    video.write_bytes(b"")
    broken.write_bytes(b"")
    assert vbench.vbench_scores([video]) == [{"motion_smoothness": 0.5, "imaging_quality": 0.5}]
    with pytest.raises(InvalidRequestError, match="VBench failed: RuntimeError: no frames"):
        vbench.vbench_scores([broken])


@pytest.mark.fast
def test_without_weights_it_says_which(installed, monkeypatch):
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(installed / "empty"))
    with pytest.raises(InvalidRequestError, match=r"none of its weights are in .*empty.*amt_model/amt-s.pth"):
        vbench.vbench_scores([])


@pytest.mark.fast
def test_it_reads_few_formats(installed):
    np.save(installed / "a.npy", np.zeros(3))
    with pytest.raises(InvalidRequestError, match=r"a.npy: VBench reads files that end in .mp4 or .gif"):
        vbench.vbench_scores([installed / "a.npy"])

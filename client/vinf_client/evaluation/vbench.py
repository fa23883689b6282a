"""Scores of the VBench package (Huang et al. 2024), in a process of its own: it needs torch, and this package does not.

Only what takes any video is asked for, and only where the weights are in VBench's cache already: VBench itself would
fetch them from half a dozen places.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from vinf_client._errors import InvalidRequestError

WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "subject_consistency": (
        "dino_model/dino_vitbase16_pretrain.pth",
        "dino_model/facebookresearch_dino_main/hubconf.py",
    ),
    "background_consistency": ("clip_model/ViT-B-32.pt",),
    "motion_smoothness": ("amt_model/amt-s.pth",),
    "dynamic_degree": ("raft_model/models/raft-things.pth",),
    "aesthetic_quality": ("clip_model/ViT-L-14.pt", "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
    "imaging_quality": ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",),
}
"""Dimensions that take any video, and the files of VBench's cache that each needs."""

_READS = (".mp4", ".gif")

_CALL = """
import json, os, sys, torch, vbench
told = json.loads(sys.argv[1])
info = os.path.join(os.path.dirname(vbench.__file__), "VBench_full_info.json")
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
vbench.VBench(device, info, told["output"]).evaluate(
    videos_path=told["video"], name="vinf", dimension_list=told["dimensions"], local=True, mode="custom_input"
)
"""


def vbench_scores(videos: Sequence[Path]) -> list[dict[str, float]]:
    """Score videos: for each one the dimensions whose weights are here.

    Raises:
        InvalidRequestError: the package or all weights are missing, VBench cannot read such a file, or it failed.
    """
    if find_spec("vbench") is None:
        raise InvalidRequestError(
            "--vbench: the package vbench is not installed here; pip install vbench, "
            f"and put its weights into {_cache()}: {_wanted()}"
        )
    dimensions = available()
    if not dimensions:
        raise InvalidRequestError(f"--vbench: none of its weights are in {_cache()} ($VBENCH_CACHE_DIR): {_wanted()}")
    for video in videos:
        if video.suffix.lower() not in _READS or not video.is_file():
            raise InvalidRequestError(f"--vbench: {video}: VBench reads files that end in {' or '.join(_READS)}")
    return [_score(video, dimensions) for video in videos]


def available() -> list[str]:
    """Dimensions whose weights are in VBench's cache."""
    cache = _cache()
    return [name for name, files in WEIGHTS.items() if all((cache / file).is_file() for file in files)]


def _score(video: Path, dimensions: Sequence[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="vinf-vbench-") as folder:
        told = {"video": str(video.resolve()), "output": folder, "dimensions": list(dimensions)}
        command = [sys.executable, "-c", _CALL, json.dumps(told)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(Path(folder).glob("*eval_results.json"))
        if done.returncode or not found:
            last = (done.stderr.strip().splitlines() or ["it wrote no results"])[-1]
            raise InvalidRequestError(f"--vbench: {video}: VBench failed: {last}")
        results = json.loads(found[0].read_text(encoding="utf-8"))
    return {name: float(value[0]) for name, value in results.items()}


def _cache() -> Path:
    return Path(os.environ.get("VBENCH_CACHE_DIR") or Path.home() / ".cache" / "vbench")


def _wanted() -> str:
    return ", ".join(dict.fromkeys(file for files in WEIGHTS.values() for file in files))

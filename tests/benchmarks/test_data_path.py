"""`vinf bench memory`: every way delivers the same video, and what is said of memory is what there is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.allocations import handed_out
from benchmarks.cli import main
from benchmarks.heap import HeapWatch, look_at_heap
from benchmarks.serving import data_path
from benchmarks.serving.conditions import Images, Prompts
from benchmarks.serving.data_path import DataPath, tiny_vae
from benchmarks.serving.memory import CHANGED, SERVED
from benchmarks.settings import DATA_PATH_FEATURES
from vinf_core.events import Pixels

CPU = torch.device("cpu")
SIZE = (32, 16)


@pytest.fixture(scope="module")
def vae() -> Any:
    return tiny_vae(CPU, torch.float32)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[int, Pixels]:
    """The frames that reach the sender."""
    found: dict[int, Pixels] = {}
    send = data_path._Sender.send

    def keep(self: Any, frame_index: int, pixels: Pixels) -> None:
        found[frame_index] = pixels.copy()
        send(self, frame_index, pixels)

    monkeypatch.setattr(data_path._Sender, "send", keep)
    return found


@pytest.mark.fast
def test_every_way_delivers_the_same_frames(vae: Any, sent: dict[int, Pixels]) -> None:
    path = DataPath(vae, 37, SIZE)
    assert path.deliver().frames == 37
    served = dict(sent)
    assert sorted(served) == list(range(37))
    assert len(np.unique(served[36])) > 2, "a picture that shows nothing"
    for feature in CHANGED:
        for state in (True, False):
            sent.clear()
            path.deliver(**{feature: state})
            assert list(sent) == list(range(37)), feature
            # In company a convolution may round differently.
            assert all(np.abs(sent[i].astype(int) - served[i]).max() <= 1 for i in served), feature


@pytest.mark.fast
def test_new_buffers_are_other_memory_and_old_ones_the_same(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[int] = []
    send = data_path._Sender.send

    def note(self: Any, frame_index: int, pixels: Pixels) -> None:
        places.append(pixels.__array_interface__["data"][0])
        send(self, frame_index, pixels)

    monkeypatch.setattr(data_path._Sender, "send", note)
    path = DataPath(vae, 49, SIZE)
    path.deliver()
    # Chunks of 13, 16, 16 and 4 frames, one behind the other in the same buffer.
    assert len(set(places)) == 16


@pytest.mark.fast
def test_allocations_are_counted_one_by_one() -> None:
    def work() -> None:
        first = torch.empty(1000, dtype=torch.uint8)
        del first
        torch.empty(500, dtype=torch.uint8)

    found = handed_out(work, CPU)
    assert (found.allocations, found.peak_bytes) == (2, 1000)


@pytest.mark.fast
@pytest.mark.skipif(look_at_heap(CPU) is None, reason="this system's allocator does not tell")
def test_a_hole_in_the_heap_is_seen() -> None:
    # Blocks of 64 kB come from the heap; every other one is a hole afterwards.
    blocks = [bytes(1 << 16) for _ in range(400)]
    before = look_at_heap(CPU)
    del blocks[::2]
    after = look_at_heap(CPU)
    assert before is not None
    assert after is not None
    assert after.idle - before.idle >= 150 * (1 << 16)
    assert before.used - after.used >= 150 * (1 << 16)
    watch = HeapWatch(CPU)
    watch.look()
    watch.look()
    assert watch.worst is not None
    assert 0 < watch.worst.idle_share < 1


def made_bytes(made: Any) -> int:
    return sum(each.nbytes for each in made)


@pytest.mark.fast
def test_what_is_kept_is_not_encoded_again(vae: Any) -> None:
    for kept in (Prompts(CPU, torch.float32, is_cached=True), Images(vae, 9, SIZE, is_cached=True)):
        made = kept.encode()
        again = handed_out(kept.encode, CPU)
        assert again.peak_bytes <= 4 * made_bytes(made)
        assert kept.kept(made).byte_count > 0
    for fresh in (Prompts(CPU, torch.float32, is_cached=False), Images(vae, 9, SIZE, is_cached=False)):
        made = fresh.encode()
        assert handed_out(fresh.encode, CPU).peak_bytes > 5 * made_bytes(made)
        assert fresh.kept(made).byte_count == 0


@pytest.mark.fast
def test_a_later_generation_finds_its_image_by_the_pixels(vae: Any) -> None:
    images = Images(vae, 9, SIZE, is_cached=True)
    for _ in range(3):
        images.encode()
    cache = images._condition.cache
    assert (cache.miss_count, cache.hit_count) == (1, 2)


@pytest.mark.process
def test_memory(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--frames", "37", "--size", "64x64", "--dtype", "float32", "--repeats", "1", "--threads", "1")
    assert main(["memory", *arguments, "--json"]) == 0, capsys.readouterr().err
    path, caches = (report["rows"] for report in json.loads(capsys.readouterr().out)["reports"])
    assert len(path) == 1 + len(CHANGED)
    assert len(path) - 1 + len(caches) / 2 == len(DATA_PATH_FEATURES)
    assert path[0]["the way"] == SERVED
    assert path[0]["time ratio"] is None
    for row in path:
        assert row["s/frame"]["median"] > 0
        assert row["allocations"] > 100
        assert row["tensors, peak MB"] > 37 * 64 * 64 * 3 * 4 / 1e6 / 4
    by_frame = next(row for row in path if "frame by frame" in row["the way"])
    assert by_frame["allocations"] > path[0]["allocations"]
    for kept, again in zip(caches[::2], caches[1::2], strict=True):
        assert kept["allocations"] < again["allocations"] / 10
        assert kept["held, MB"] > 0 == again["held, MB"]


@pytest.mark.process
def test_features_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--frames", "5", "--size", "32x32", "--repeats", "1", "--features", "prompts", "--threads", "1")
    assert main(["memory", *arguments, "--json"]) == 0, capsys.readouterr().err
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert [row["conditions"] for row in report["rows"]] == ["prompts, kept", "prompts, encoded again"]

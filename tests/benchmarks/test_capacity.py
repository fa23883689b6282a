"""Memory that is counted: the same as allocators hand out, and the table of the docs."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import capacity
from benchmarks.allocations import count_peak, handed_out
from benchmarks.capacity import count, count_solver, longest_video
from benchmarks.full_size import FULL_SIZE, TOY
from benchmarks.full_size_3d import FULL_SIZE_3D, TOYS_3D
from benchmarks.settings import CapacitySettings
from tests.support.tiny import tiny_model
from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.engine.memory import MemoryModel
from vinf_core.engine.probe import USABLE_SHARE
from vinf_core.events import StageClock
from vinf_core.models.adapter import VideoModel
from vinf_core.models.catalogue import catalogue
from vinf_server.front.rpc.memory import largest_frame_count
from vinf_server.rank.convert import limits_to_proto

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")
JOINT = "vinf bench capacity, 3-D attention"
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
GIGABYTES = (24, 48, 80)


def generator(model: VideoModel | None = None) -> Generator:
    model = model or tiny_model(torch.float32)
    topology, clock = Topology.single(model.device), StageClock(CPU)
    return Generator(model, topology, Exchange(topology, None, clock), clock)


def allocator_peak(work: Callable[[], object]) -> int:
    """What torch's own allocator hands out at most."""
    return handed_out(work, CPU).peak_bytes


def test_tensors_are_counted_while_they_live() -> None:
    kept = torch.empty(1000, dtype=torch.uint8)

    def work() -> None:
        first = torch.empty(512, dtype=torch.uint8)
        view = first[:10]
        del first
        second = torch.empty(1, dtype=torch.uint8)
        del second, view
        torch.empty(600, dtype=torch.uint8)

    assert count_peak(work) == 1024
    assert count_peak(work, [kept, kept[:5]]) == 2048


def test_a_convolution_may_take_copies_of_what_it_reads_and_writes() -> None:
    image, weight = torch.empty(1, 1, 16, 16), torch.empty(2, 1, 1, 1)
    convolve = partial(torch.nn.functional.conv2d, image, weight)
    assert count_peak(convolve, workspaces=False) == 2 * 16 * 16 * 4
    assert count_peak(convolve) == 2 * 16 * 16 * 4 + 3 * 16 * 16 * 4


def test_what_is_counted_is_what_the_allocator_hands_out() -> None:
    engine = generator()
    engine.probe(16)  # what is kept from the first pass on is no part of a pass
    for frames in (128, 256):
        work = partial(engine.probe, frames)
        assert count_peak(work, workspaces=False) == pytest.approx(allocator_peak(work), rel=0.03)
    assert count_peak(engine.probe_decode, workspaces=False) == pytest.approx(
        allocator_peak(engine.probe_decode), rel=0.03
    )


def test_a_group_counts_the_frames_of_others() -> None:
    alone, group = (count(tiny_model(torch.float32), ranks, lengths=(8, 16)) for ranks in (1, 3))
    assert alone.weights_bytes == group.weights_bytes
    assert alone.memory.largest_clip_share == 3 * group.memory.largest_clip_share
    pixels = 32 * 32
    assert group.memory.denoise_bytes(16, pixels) > alone.memory.denoise_bytes(16, pixels)
    assert group.memory.decode_bytes(pixels) == alone.memory.decode_bytes(pixels)


def toy_3d() -> VideoModel:
    return TOYS_3D["toy-easyanimate"].outline(torch.float32)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("make", [partial(tiny_model, torch.float32), toy_3d], ids=["frames", "latent frames"])
def test_the_longest_video_is_the_one_that_a_server_admits(ranks: int, make: Callable[[], VideoModel]) -> None:
    model = make()
    limits = model.limits
    width, height = limits.default_width, limits.default_height
    memory = count(model, ranks, lengths=(8, 16)).memory
    scope = limits.default_scope
    context = scope.local_window_frames + scope.global_frames
    for budget in (memory.decode_bytes(width * height), 4_000_000, 9_000_000, 10**9, 10**13):
        message = link_pb2.MemoryModel(
            budget_bytes=budget,
            fixed_bytes=memory.fixed_bytes,
            bytes_per_frame_pixel=memory.bytes_per_frame_pixel,
            decode_fixed_bytes=memory.decode_fixed_bytes,
            decode_bytes_per_pixel=memory.decode_bytes_per_pixel,
            largest_clip_share=memory.largest_clip_share,
        )
        admitted = largest_frame_count(message, limits_to_proto(limits), width, height, context)
        assert longest_video(memory, limits, budget) == admitted
    assert admitted == limits.max_frame_count


def test_the_command_has_a_row_for_each_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(capacity.FULL_SIZE, "videocrafter2", TOY)
    (report,) = capacity.run(CapacitySettings(models=("videocrafter2",), ranks=(1, 2), gigabytes=(1, 80)))
    assert [row["ranks"] for row in report.rows] == [1, 2]
    for row in report.rows:
        assert 0 < row["1 GB"] < row["80 GB"] <= 65_536
    assert report.rows[0]["1 GB"] < report.rows[1]["1 GB"]


def test_weights_that_take_less_leave_room_for_more_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(capacity.FULL_SIZE_3D, "easyanimate-v5.1-7b", TOYS_3D["toy-easyanimate"])
    (report,) = capacity.run(CapacitySettings(models=("easyanimate-v5.1-7b",), ranks=(1, 2), gigabytes=(1, 24)))
    assert [(row["weights"], row["ranks"]) for row in report.rows] == [
        (weights, ranks) for weights in ("stored", "fp8", "stored, offloaded", "fp8, offloaded") for ranks in (1, 2)
    ]
    for column in ("weights GB", "fixed GB"):
        stored, fp8, offloaded, both = (report.rows[place][column] for place in (0, 2, 4, 6))
        assert 0 < fp8 < stored
        assert 0 < both < offloaded <= stored
    assert 0 < report.rows[0]["1 GB"] <= report.rows[2]["1 GB"]
    assert report.rows[0]["1 GB"] < report.rows[1]["1 GB"]


def rows(marker: str = "vinf bench capacity") -> list[list[str]]:
    """The table between its markers, without its head."""
    table = re.search(rf"<!-- {marker} -->\n(.*?)<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].strip().splitlines()[2:]]


def test_the_table_holds_every_model() -> None:
    assert {name for name, *_ in rows()} == set(FULL_SIZE)
    for name, size, *_ in rows():
        card = catalogue()[name]
        assert size == f"{card.width} × {card.height}"


def test_the_table_of_3d_attention_holds_every_way_the_weights_may_lie() -> None:
    found = rows(JOINT)
    assert len(found) == 3 * 4 * 4
    assert {name for name, *_ in found} == set(FULL_SIZE_3D) - {"skyreels-v1-i2v"}
    for name, size, *_ in found:
        card = catalogue()[name]
        assert size == f"{card.width} × {card.height}"


def test_the_tables_follow_from_their_own_lines() -> None:
    models: dict[str, Any] = {**FULL_SIZE, **FULL_SIZE_3D}
    joint = [[name, size, *figures] for name, size, _, *figures in rows(JOINT)]
    for name, _, ranks, weights, fixed, slope, _, decoding, *longest in rows() + joint:
        limits = models[name].limits()
        pixels = limits.default_width * limits.default_height
        memory = MemoryModel(
            budget_bytes=0,
            fixed_bytes=int(float(fixed) * 1e9),
            bytes_per_frame_pixel=float(slope) * 1e6 / pixels,
            decode_fixed_bytes=int(float(weights) * 1e9),
            decode_bytes_per_pixel=(float(decoding) - float(weights)) * 1e9 / pixels,
            largest_clip_share=1 / int(ranks),
        )
        for size, said in zip(GIGABYTES, longest, strict=True):
            found = longest_video(memory, limits, int(USABLE_SHARE * size * 1e9))
            # Two decimals of a gigabyte are a latent frame of each rank.
            each = limits.frames_per_latent
            latent_frame = each * int(ranks) if each > 1 else 0
            assert int(said.replace(",", "")) == pytest.approx(found, rel=0.01, abs=latent_frame)


@pytest.mark.parametrize("name", ["videocrafter2", "animatediff-v2"])
def test_a_line_of_the_table_is_what_is_counted(name: str) -> None:
    """One pass at full size, 128 frames, without a number in it."""
    line = next(row for row in rows() if row[0] == name and row[2] == "1")
    _, _, _, weights, fixed, slope, solver, decoding = map(str, line[:8])
    engine = generator(FULL_SIZE[name].outline(torch.float16))
    model: Any = engine.model
    held = [t for part in (model.unet, model._vae, model._text_encoder) for t in (*part.parameters(), *part.buffers())]
    assert sum(tensor.nbytes for tensor in held) / 1e9 == pytest.approx(float(weights), rel=0.01)
    assert count_peak(partial(engine.probe, 128), held) / 1e9 == pytest.approx(
        float(fixed) + 0.128 * float(slope), rel=0.01
    )
    assert count_peak(engine.probe_decode, held) / 1e9 == pytest.approx(float(decoding), rel=0.01)
    assert count_solver(model) / 1e6 == pytest.approx(float(solver), rel=0.02)

"""The comparison of ways to make a long video: what each mode asks for, ranks in one process, work that is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.cli import main
from benchmarks.quality import provenance, work
from benchmarks.quality.cells import Cell, cells, load_video, save_video
from benchmarks.quality.modes import MODES, boundaries, specification
from benchmarks.quality.page import BEGIN, END, put_in, tables
from benchmarks.quality.ranks import SUMS, Room
from benchmarks.quality.scores import score
from benchmarks.quality.sheet import chosen_frames
from benchmarks.quality.statistics import auc, beyond_chance, estimate, larger_share
from benchmarks.quality.studio import Studio
from benchmarks.quality.summary import jump_ratio, pace, reports, verdict
from benchmarks.settings import QUALITY_MODES, QualitySettings, SettingsError
from tests.support.engine import spec
from tests.support.sprites import load_sprites
from tests.support.tiny import tiny_model
from training.sprites.world import held_out_prompts, render
from vinf_client.evaluation.seams import MOST
from vinf_core.models.locate import ModelFiles, locate
from vinf_core.types import TemporalScope

pytestmark = pytest.mark.fast

SCOPE = TemporalScope(local_window_frames=8, global_frames=3)


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(tiny_model(torch.float64))


def test_ranks_of_one_process_are_the_engine(studio: Studio) -> None:
    """Halos, global frames and norms cross ranks as they do between processes: the result is that of one rank."""
    wanted = spec(frame_count=22, scope=SCOPE, step_count=2)
    one = studio.in_ranks(wanted, [22], shares_sums=True)
    three = studio.in_ranks(wanted, [9, 8, 5], shares_sums=True)
    assert float((three - one).norm() / one.norm()) < 1e-12


def test_norms_of_each_clip_alone_show_and_repeat(studio: Studio) -> None:
    wanted = spec(frame_count=22, scope=SCOPE, step_count=2)
    shared = studio.in_ranks(wanted, [9, 8, 5], shares_sums=True)
    alone = studio.in_ranks(wanted, [9, 8, 5], shares_sums=False)
    assert float((alone - shared).norm() / shared.norm()) > 1e-4
    assert torch.equal(alone, studio.in_ranks(wanted, [9, 8, 5], shares_sums=False))


def test_independent_clips_are_videos_of_their_own() -> None:
    """A clip of the mode that joins clips does not depend on the others; one of the dual scope does."""
    model = load_sprites()
    made = {name: Studio(model) for name in ("independent", "dual")}
    prompt = held_out_prompts(32)[0]
    for name, studio in made.items():
        short, long = (
            studio.film(MODES[name], prompt=prompt.text, seed=3, frames=frames, steps=1) for frames in (24, 33)
        )
        assert short.shape == (24, 64, 64, 3)
        same = int(np.abs(short.astype(int) - long[:24]).max()) <= 1
        assert same == (name == "independent")


def test_a_rank_that_fails_ends_all() -> None:
    room = Room(2)

    def fail() -> None:
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError, match="no"):
        room.run([fail, lambda: room.take(SUMS, 0, 1)])


def test_the_modes_differ_in_what_they_say() -> None:
    limits = load_sprites().limits
    assert tuple(MODES) == QUALITY_MODES
    specs = {
        name: specification(mode, limits, prompt="a red ball", seed=1, frames=64, steps=8)
        for name, mode in MODES.items()
        if not mode.rendered
    }
    assert boundaries(64) == [24, 48]
    assert [len(scene) for scene in specs["independent"].scenes] == [24, 24, 16]
    assert len(specs["dual"].scenes) == 1
    assert specs["dual"] == specs["unsynchronised"]
    assert specs["dual"].scope == limits.default_scope
    assert specs["local"].scope.global_frames == 0
    assert specs["global"].scope.local_window_frames == 0
    assert len({str(made) for made in specs.values()}) == len(specs) - 1


def test_modes_take_turns_innermost() -> None:
    order = list(cells(["a", "b"], [64, 192], 32, 8))
    assert [(cell.prompt, cell.frames, cell.mode) for cell in order[:5]] == [
        (0, 64, "a"), (0, 64, "b"), (0, 192, "a"), (0, 192, "b"), (13, 64, "a"),
    ]  # fmt: skip
    assert {cell.prompt for cell in order} == set(range(32))


def test_the_first_prompts_are_varied() -> None:
    prompts = held_out_prompts(32)
    first = [prompts[cell.prompt].spec for cell in cells(["a"], [64], 8, 8)]
    for attribute, least in (("shape", 3), ("motion", 3), ("background", 3)):
        assert len({getattr(found, attribute) for found in first}) >= least


class TestWork:
    """With true videos of the world instead of generated ones: a step of the engine takes long."""

    @pytest.fixture(autouse=True)
    def rendered(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        films: list[str] = []
        by_text = {prompt.text: prompt.spec for prompt in held_out_prompts(32)}

        class Rendering:
            def __init__(self, model: Any) -> None: ...

            def film(self, mode: Any, *, prompt: str, seed: int, frames: int, steps: int) -> Any:
                films.append(mode.name)
                if mode.name != "independent":
                    return render(by_text[prompt], seed, frames=frames)
                return np.concatenate(
                    [render(by_text[prompt], seed + part, frames=24) for part in range(frames // 24 + 1)]
                )[:frames]

        monkeypatch.setattr(work, "Studio", Rendering)
        monkeypatch.setattr(work, "load_model", lambda *_, **__: None)
        return films

    def settings(self, folder: Path, **changes: Any) -> QualitySettings:
        values: dict[str, Any] = {"modes": ("independent", "dual"), "frames": (50,), "prompts": 2, "steps": 1}
        return QualitySettings(folder=str(folder), **(values | changes))

    def test_goes_on_where_it_was_stopped(self, tmp_path: Path, rendered: list[str]) -> None:
        work.run(self.settings(tmp_path, prompts=1))
        assert rendered == ["independent", "dual"]
        lines = tmp_path / work.LINES
        whole = lines.read_text()
        lines.write_text(whole[:-30])  # as a killed run leaves it
        work.run(self.settings(tmp_path))
        assert rendered == ["independent", "dual"] * 2, "a video that is there is scored again, not made again"
        keys = list(work.read_lines(tmp_path))
        assert sorted(keys) == sorted(
            f"{mode}/50/{prompt}/1/24/{provenance.MEASURES}" for mode in ("independent", "dual") for prompt in (0, 13)
        )
        work.run(self.settings(tmp_path))
        assert len(rendered) == 4

    def test_a_report_makes_no_videos_but_scores_them(self, tmp_path: Path, rendered: list[str]) -> None:
        work.run(self.settings(tmp_path, prompts=1))
        (tmp_path / work.LINES).unlink()
        found = work.run(self.settings(tmp_path, report_only=True))
        assert rendered == ["independent", "dual"]
        assert found[0].title == "Seams, 50 frames, 1 prompts"

    def test_measures_again_when_the_measures_change(
        self, tmp_path: Path, rendered: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work.run(self.settings(tmp_path, prompts=1))
        monkeypatch.setattr(work, "score", lambda *_: {"measured": "again"})
        monkeypatch.setattr(work, "reports", list)
        code = tmp_path / "evaluation" / "seams.py"
        code.parent.mkdir()
        for text in ("one", "another"):
            code.write_text(text)
            monkeypatch.setattr(work, "MEASURES", provenance.digest([code.parent], ".py"))
            known = set(work.read_lines(tmp_path))
            found: list[Any] = work.run(self.settings(tmp_path, prompts=1))
            assert [line["measured"] for line in found] == ["again"] * 2
            assert len(set(work.read_lines(tmp_path)) - known) == 2
        assert rendered == ["independent", "dual"], "the videos are kept"

    def test_other_weights_want_another_folder(
        self, tmp_path: Path, rendered: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own, others = tmp_path / "own", tmp_path / "others"
        for folder in (own, others):
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(folder.name.encode())
        for folder in (own, own, others):
            files = ModelFiles(card=locate(provenance.MODEL).card, denoiser=folder, base=folder)
            monkeypatch.setattr(provenance, "locate", lambda _, files=files: files)
            if folder == own:
                work.run(self.settings(tmp_path, time_limit=1e-9))
        with pytest.raises(SettingsError, match=r"--folder: the videos in .* were made with other weights"):
            work.run(self.settings(tmp_path, time_limit=1e-9))

    def test_stops_when_the_time_is_up(self, tmp_path: Path, rendered: list[str]) -> None:
        assert work.run(self.settings(tmp_path, time_limit=1e-9)) == []
        assert rendered == []

    def test_the_tables(self, tmp_path: Path) -> None:
        sheet = tmp_path / "sheet.png"
        seams, drifts, world, beside, power = work.run(self.settings(tmp_path, sheet=str(sheet)))
        assert seams.title == "Seams, 50 frames, 2 prompts"
        independent, dual = seams.rows
        assert float(str(independent["pixels"]).split()[0]) > 2 * float(str(dual["pixels"]).split()[0])
        assert float(str(independent["p pixels"])) < 0.01 < float(str(dual["p pixels"]))
        assert str(drifts.rows[1]["from dual"]).startswith("0.00")
        assert str(world.rows[1]["colour"]).startswith("1.00")
        assert [row["mode"] for row in beside.rows] == ["independent"]
        assert beside.rows[0]["seam: pixels"] == 1.0
        assert "no share of so few" in beside.notes[0]
        figures = {str(row["figure"]): row for row in power.rows}
        assert figures["seam: pixels"]["independent"] == 1.0
        assert figures["seam: pixels"]["independent, in words"] == "tells"
        assert figures["tracker: wrong colour"]["independent"] == 0.5
        assert "unsynchronised" not in figures["seam: pixels"]
        assert sheet.read_bytes()[:4] == b"\x89PNG"

    def test_the_world_itself_needs_no_model(self, tmp_path: Path, rendered: list[str]) -> None:
        _, _, world = work.run(self.settings(tmp_path, modes=("rendered",)))
        assert rendered == []
        assert [str(world.rows[0][share])[:4] for share in ("visible", "colour", "motion")] == ["1.00"] * 3

    def test_only_prompts_that_all_modes_hold_count(self, tmp_path: Path) -> None:
        work.run(self.settings(tmp_path))
        lines = list(work.read_lines(tmp_path).values())
        found = reports([line for line in lines if line["mode"] == "dual" or line["prompt"] == 0])
        assert found[0].title == "Seams, 50 frames, 1 prompts"
        assert reports([]) == []

    def test_the_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["quality", "--folder", str(tmp_path), "--modes", "dual", "--frames", "50", "--prompts", "1"]
        assert main([*arguments, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["settings"]["modes"] == ["dual"]
        assert told["reports"][0]["title"] == "Seams, 50 frames, 1 prompts"
        assert main([*arguments, "--report-only", "--sheet", str(tmp_path / "no" / "a.png")]) == 2
        assert "--sheet" in capsys.readouterr().err
        assert main([*arguments[:3], "--report-only", "--sheet", str(tmp_path / "a.png")]) == 2
        assert "there are no videos yet of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--folder"),
        (["--folder", "x", "--modes", "magic"], "--modes: magic: allowed: rendered, independent"),
        (["--folder", "x", "--frames", "16"], "--frames: wants whole numbers of 32 or more"),
        (["--folder", "x", "--prompts", "33"], "--prompts: 33 is not in [1, 32]"),
        (["--folder", "x", "--steps", "0"], "--steps: 0 is less than 1"),
        (["--folder", "x", "--time-limit", "nan"], "--time-limit: nan"),
        (["--folder", "x", "--sheet", "a.txt"], "--sheet: 'a.txt'"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["quality", *arguments])
    except SystemExit as left:
        code = int(left.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err


def test_videos_are_kept_whole(tmp_path: Path) -> None:
    video = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    cell = Cell("dual", 64, 3, 8)
    assert load_video(tmp_path, cell) is None
    save_video(tmp_path, cell, video)
    kept = load_video(tmp_path, cell)
    assert kept is not None
    assert np.array_equal(kept, video)
    assert [path.name for path in (tmp_path / cell.file).parent.iterdir()] == ["03-dual.npz"]


def test_the_worst_seams_stay_in_the_medians() -> None:
    """Of a video that stands still inside its clips: nothing usual to divide by is not nothing to tell."""
    prompt = held_out_prompts(32)[0]
    clips = [render(prompt.spec, seed, frames=1).repeat(24, axis=0) for seed in (1, 2)]
    clips[1] = np.roll(clips[1], 9, axis=2)
    found = score(np.concatenate(clips), prompt)
    assert {found["seams"][name]["ratio"] for name in ("pixels", "structure", "acceleration")} == {MOST}


def test_the_tracker_measures_steps_at_boundaries() -> None:
    jumps: list[float | None] = [2.0] * 49
    jumps[23], jumps[30] = 8.0, None
    line = {"frames": 50, "tracker": {"jumps": jumps}}
    assert jump_ratio(line) == pytest.approx((8.0 + 2.0) / 2 / 2.0)
    assert pace(line) == pytest.approx((47 * 2.0 + 8.0) / 48)
    assert jump_ratio({"frames": 50, "tracker": {"jumps": [None] * 49}}) is None


def test_statistics() -> None:
    found = estimate([1.0, 2.0, 3.0, None, float("inf")])
    assert found is not None
    assert (found.value, found.low, found.high) == (2.0, 1.0, 3.0)
    assert estimate([None]) is None
    many = estimate(list(np.random.default_rng(0).normal(5.0, 1.0, 400)), np.mean)
    assert many is not None
    assert many.high - many.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert auc([3, 4], [1, 2]) == 1.0
    assert auc([1, 2], [1, 2]) == 0.5
    assert auc([1, None], [2]) == 0.0
    assert auc([], [1]) is None
    assert larger_share([2, 1, 3, None], [1, 1, 4, 5]) == pytest.approx(0.5)
    assert beyond_chance(5) is None
    assert beyond_chance(6) == 0.0
    assert beyond_chance(12) == pytest.approx(2 / 12)  # 2 (1 + 12 + 66) / 4096 = 0.039
    assert beyond_chance(32) == pytest.approx(9 / 32)
    assert [verdict(value) for value in (0.95, 0.75, 0.5, 0.1)] == ["tells", "often tells", "cannot tell", "misleads"]


def test_the_sheet_shows_both_sides_of_a_boundary() -> None:
    shown = chosen_frames(384)
    assert {22, 23, 24, 25, 47, 48, 383} <= set(shown)
    assert len(shown) <= 20


def test_the_page() -> None:
    rows = [{"mode": "dual", "pixels": "1.0 [0.9, 1.1]", "p pixels": 0.04321, "motion": None}]
    told = {"reports": [{"title": "Seams, 64 frames, 2 prompts", "rows": rows, "notes": ["So", "it is."]}]}
    page = put_in(f"before\n{BEGIN}\nold\n{END}\nafter\n", tables(told))
    assert page.startswith("before\n")
    assert page.endswith(f"{END}\nafter\n")
    assert "old" not in page
    assert "| mode | pixels | motion |\n| --- | --- | --- |\n| dual | 1.0 [0.9, 1.1], p 0.043 | - |" in page
    assert "So it is." in page
    assert put_in(page, tables(told)) == page
    with pytest.raises(ValueError, match="has no lines"):
        put_in("nothing", "")

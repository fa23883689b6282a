"""The dual scope as a mask."""

from __future__ import annotations

import math

import pytest
import torch

from vinf_core.context.layout import Layout
from vinf_core.context.partition import clips_of
from vinf_core.context.scope import scope_mask
from vinf_core.errors import InvalidSpecError
from vinf_core.types import TemporalScope

pytestmark = pytest.mark.fast

SCOPE = TemporalScope(local_window_frames=2, global_frames=2, phase_timestep=800, phase_bias=10.0)


def test_mask_by_hand() -> None:
    # 8 frames, globals 2 and 6; the query is frame 3: neighbours 2 and 4, itself, and the globals.
    hidden = -math.inf
    local_phase = scope_mask([3], range(8), SCOPE, 8, global_phase=False)
    assert local_phase.tolist() == [[hidden, hidden, 10, 10, 10, hidden, 0, hidden]]
    global_phase = scope_mask([3], range(8), SCOPE, 8, global_phase=True)
    # Frame 2 is both: one key, with the larger bias in either phase.
    assert global_phase.tolist() == [[hidden, hidden, 10, 0, 0, hidden, 10, hidden]]


def test_every_query_sees_itself() -> None:
    alone = TemporalScope(local_window_frames=0, global_frames=0)
    mask = scope_mask(range(4), range(4), alone, 4, global_phase=True)
    assert torch.equal(mask.isfinite(), torch.eye(4, dtype=torch.bool))


def test_layout_keys_are_ascending_and_masks_match_them() -> None:
    clips = clips_of([3, 2, 3])
    layout = Layout.build(clips, 1, SCOPE)
    assert layout.attention_plan.frames == (2, 3, 4, 5, 6)
    assert layout.local_phase_mask.shape == (2, 5)
    assert torch.equal(
        layout.local_phase_mask, scope_mask([3, 4], layout.attention_plan.frames, SCOPE, 8, global_phase=False)
    )


def test_padding_beyond_the_video() -> None:
    layout = Layout.build(clips_of([3, 2, 3]), 1, SCOPE)
    assert (layout.missing_before, layout.missing_after) == (1, 1)
    assert layout.inside_video is not None
    assert layout.inside_video.tolist() == [0, *[1] * 8, 0]
    assert Layout.build(clips_of([10, 10, 10]), 1, SCOPE).inside_video is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("local_window_frames", 3), ("local_window_frames", -2), ("global_frames", -1), ("phase_bias", math.nan)],
)
def test_impossible_scopes_are_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidSpecError, match=field):
        TemporalScope(**({"local_window_frames": 16, "global_frames": 8} | {field: value}))

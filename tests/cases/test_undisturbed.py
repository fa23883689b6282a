"""Case 78: the server of all these cases still does what it did at first. The last file of this folder."""

from __future__ import annotations

import pytest

from tests.cases.conftest import CANARY, SUCCEEDED, Api

pytestmark = pytest.mark.process


def test_case_78_the_canary_sings_as_before(api: Api) -> None:
    made = api.create(spec=CANARY, detached=True).generation_id
    ended = api.finish(made)
    assert ended.state == SUCCEEDED
    assert api.frames(made) == api.canary

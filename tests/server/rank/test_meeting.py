"""What a rank does before it meets the others, who wait for it then for as long as loading may take."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.support.tiny import tiny_model
from vinf_core.errors import ModelFilesError
from vinf_server.rank import main
from vinf_server.rank.config import RankConfig

pytestmark = pytest.mark.fast

ENVIRONMENT = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "VINF_LINK": "unix:/none", "VINF_EPOCH": "1"}


class MetError(Exception):
    """The ranks have met."""


@pytest.mark.parametrize(("rank", "one_rank", "expected"), [(0, True, [""]), (1, True, []), (0, False, [])])
def test_rank_0_loads_the_text_encoder_of_all_before_the_ranks_meet(
    monkeypatch: pytest.MonkeyPatch, rank: int, one_rank: bool, expected: list[str]
) -> None:
    asked = start(monkeypatch, one_rank)
    with pytest.raises(MetError):
        main.run(config(rank))
    assert asked == expected


def test_a_text_encoder_that_cannot_be_loaded_is_a_mistake_in_the_configuration(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start(monkeypatch, True, ModelFilesError("model: /text_encoder is damaged"))
    assert main.run(config(0)) == main.EXIT_CONFIGURATION
    assert "model: /text_encoder is damaged" in caplog.text


def start(monkeypatch: pytest.MonkeyPatch, one_rank: bool, error: Exception | None = None) -> list[str]:
    """Let a rank get as far as to the others; the texts that it encodes on the way."""
    asked: list[str] = []
    model = tiny_model(torch.float32)
    model.text_on_one_rank = one_rank

    def encode_text(prompts: list[str]) -> torch.Tensor:
        if error is not None:
            raise error
        asked.extend(prompts)
        return torch.empty(0)

    def meet(topology: object) -> None:
        raise MetError

    model.encode_text = encode_text  # type: ignore[method-assign]
    for name, stand_in in {
        "Link": lambda *_: None,
        "Heart": lambda *_: SimpleNamespace(start=lambda: None),
        "prepare": lambda *_: None,
        "quiet_libraries": lambda: None,
        "load_model": lambda *_, **__: model,
        "process_groups": meet,
    }.items():
        monkeypatch.setattr(main, name, stand_in)
    return asked


def config(rank: int) -> RankConfig:
    return RankConfig.from_environment(
        ENVIRONMENT | {"RANK": str(rank), "LOCAL_RANK": str(rank), "VINF_MODEL": "tiny", "VINF_DEVICE": "cpu"}
    )

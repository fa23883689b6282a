"""Which model `vinf serve` runs: looked for before anything starts, and downloaded where that is wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vinf_core.errors import ConfigError as CoreConfigError
from vinf_core.errors import ModelNotFoundError
from vinf_core.models.locate import ModelSource, locate
from vinf_server.config import RANK_MODULE, ServeConfig
from vinf_server.flag_values import ConfigError


def read_model_options(words: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Read ``NAME=VALUE`` words; of a name that is given twice the last one counts.

    Raises:
        ConfigError: a word is something else.
    """
    options = {}
    for word in words:
        match = re.fullmatch(r"([a-z][a-z0-9-]*)=(.+)", word)
        if match is None:
            raise ConfigError("--model-option", f"{word!r} is not NAME=VALUE")
        options[match[1]] = match[2]
    return tuple(sorted(options.items()))


def check_model(config: ServeConfig) -> None:
    """See that the model is there before ranks are started for it; may download it.

    Raises:
        ConfigError: it is not, or has no such option.
    """
    if config.rank_module != RANK_MODULE:
        return
    source = ModelSource(
        model=config.model, base=config.model_base, revision=config.model_revision, offline=config.offline
    )
    try:
        files = locate(source)
    except ModelNotFoundError as error:
        flag, _, problem = str(error).partition(": ")
        raise ConfigError("--model-base" if flag == "base" else "--model", problem) from error
    try:
        files.card.choose(dict(config.model_options))
    except CoreConfigError as error:
        raise ConfigError("--model-option", str(error).removeprefix("model option: ")) from error

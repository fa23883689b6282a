"""A real rank whose denoiser fails when it is told to: ``python -m tests.support.faulty_rank``, under torchrun.

The folder of the environment's VINF_TEST_FAULTS holds one file a rank, named by the rank; what it says happens to the
next call of the model, once.
"""

from vinf_server.rank.lifeline import die_with_parent

die_with_parent()

import os  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

from vinf_core.models.text_to_video import TextToVideoModel  # noqa: E402
from vinf_server.rank.main import main  # noqa: E402

ENVIRONMENT = "VINF_TEST_FAULTS"
RAISE, OUT_OF_MEMORY, NAN, STUCK = "raise", "out of memory", "nan", "stuck"


def make_faulty(order: Path) -> None:
    """Let the model look at a file before each call."""
    predict = TextToVideoModel.predict

    def faulty(model: TextToVideoModel, *arguments: object) -> torch.Tensor:
        fault = taken(order)
        if fault == RAISE:
            raise RuntimeError("the model was told to fail")
        if fault == OUT_OF_MEMORY:
            raise torch.OutOfMemoryError("tried to allocate 80 GiB, told to")
        if fault == STUCK:
            time.sleep(3600)
        result = predict(model, *arguments)
        return result * torch.nan if fault == NAN else result

    TextToVideoModel.predict = faulty


def taken(order: Path) -> str:
    """Read an order and remove it; empty when there is none."""
    try:
        text = order.read_text()
        order.unlink()
    except FileNotFoundError:
        return ""
    return text


if __name__ == "__main__":
    make_faulty(Path(os.environ[ENVIRONMENT], os.environ["RANK"]))
    main()

"""A real rank whose denoiser fails when it is told to: ``python -m tests.support.faulty_rank``, under torchrun.

The folder of the environment's VINF_TEST_FAULTS holds one file a rank, named by the rank. It says how many calls of the
model go well, and what happens to the one after them, once; a file beside it tells when that was. While there is a file
HOLD, no model is loaded.
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
HOLD = "hold"


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
    """Count a call; return the fault that is its own, and remove the order; empty when there is none."""
    try:
        calls, _, fault = order.read_text().partition(" ")
    except FileNotFoundError:
        return ""
    if int(calls) > 0:
        put(order, f"{int(calls) - 1} {fault}")
        return ""
    order.unlink()
    put(struck_file(order), str(time.monotonic()))
    return fault


def put(path: Path, text: str) -> None:
    """Write a file that is never seen half written."""
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text)
    unfinished.rename(path)


def struck_file(order: Path) -> Path:
    """Where the time is told at which an order was carried out, of the monotonic clock."""
    return order.with_name(f"{order.name}.struck")


def make_held(hold: Path) -> None:
    """Let no model be loaded while there is such a file."""
    from_files = TextToVideoModel.from_files

    def held(*arguments: object, **options: object) -> TextToVideoModel:
        while hold.exists():
            time.sleep(0.02)
        return from_files(*arguments, **options)

    TextToVideoModel.from_files = held


if __name__ == "__main__":
    orders = Path(os.environ[ENVIRONMENT])
    make_faulty(orders / os.environ["RANK"])
    make_held(orders / HOLD)
    main()

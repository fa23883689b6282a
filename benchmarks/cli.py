"""`vinf bench`: measures the engine and the delivery; every figure comes with what it is to be compared with."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from importlib import import_module

from benchmarks.arguments import EXIT_USAGE, OWN_COMMANDS, parse_settings
from benchmarks.settings import AnySettings, Settings, SettingsError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        command, settings, wants_json = parse_settings(arguments)
    except SettingsError as error:
        return _fail(str(error), EXIT_USAGE)
    # Before torch is imported: spinning OpenMP threads of several ranks slow each other down on few cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Explicitly: a shell that starts us in the background has SIGINT ignored, and Python would leave it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _measure(command, settings, arguments if wants_json else None)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _measure(command: str, settings: AnySettings, json_for: list[str] | None) -> int:
    """Run a command and print what it found: tables, or JSON that repeats the arguments ``json_for``."""
    # Imported late, so that --help and mistakes in the arguments are answered at once.
    import torch

    # Else the collector walks all that was imported once more at the end, which takes two seconds.
    atexit.register(gc.freeze)
    from benchmarks.report import as_json, describe, machine
    from benchmarks.worlds import RankFailedError, prepare_device
    from vinf_core.distributed.topology import select_device
    from vinf_core.errors import VinfCoreError

    try:
        if not isinstance(settings, Settings):
            wanted = getattr(settings, "device", "cpu")
            device = select_device(wanted, 0, 1) if wanted == "auto" else torch.device(wanted)
            reports = import_module(f"benchmarks.{OWN_COMMANDS[command].module}").run(settings)
        else:
            device = prepare_device(settings)
            reports = import_module(f"benchmarks.{command.replace('-', '_')}").run(settings, device)
    except (SettingsError, VinfCoreError) as error:
        return _fail(str(error), EXIT_USAGE)
    except torch.OutOfMemoryError as error:
        return _fail(f"out of GPU memory, try fewer --frames: {str(error).partition('.')[0]}", EXIT_FAILED)
    except ModuleNotFoundError as error:
        if error.name not in ("training", "training.sprites"):
            raise
        return _fail("quality needs the world that the model was trained on: run it in a source tree", EXIT_USAGE)
    except RankFailedError as error:
        return _fail(str(error), EXIT_FAILED)
    if json_for is not None:
        print(as_json(json_for, settings, device, reports))
    else:
        print(describe(machine(device), settings), *(report.table() for report in reports), sep="\n\n")
    return 0


def _fail(message: str, code: int) -> int:
    print(f"vinf bench: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

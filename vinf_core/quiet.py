"""Keeps what libraries say of themselves out of logs; nothing heavy is imported here, so that it can come first."""

import logging
import os

_CHATTY = ("torchao", "torch.utils._pytree")
"""Loggers that warn, while they are imported, of kernels for other devices and of each other's interfaces."""


def quiet_imports() -> None:
    """See that importing torch's neighbours writes nothing; what the user's environment asks for stays asked for.

    To be called before diffusers is imported, which imports torchao where that is installed.
    """
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(name, "error")

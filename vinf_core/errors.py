"""Everything the core raises on purpose.

VinfCoreError
├── InvalidSpecError        the caller's specification cannot be generated (also a ValueError)
├── ModelNotFoundError      no model of that name, or its files are missing (also a ValueError)
│   └── ModelFilesError     its files are there, but damaged or of something else
├── ConfigError             the engine cannot be set up like this (also a ValueError)
├── CheckpointError         a checkpoint is damaged or of something else (also a ValueError)
├── GenerationCancelledError  every rank agreed to stop; the group goes on
├── OutputInvalidError      the model produced NaN, infinity or only black; the generation fails, the group goes on
└── OutOfStepError          a rank missed a command or another rank failed: the rank must exit
"""


class VinfCoreError(Exception):
    """Root of the tree."""


class InvalidSpecError(VinfCoreError, ValueError):
    """The specification has a value outside its range; the message names the field, the value and the range."""


class ModelNotFoundError(VinfCoreError, ValueError):
    """No such model; the message lists the known ones."""


class ModelFilesError(ModelNotFoundError):
    """A model's files are missing in part, damaged, or of another class; the message names the file."""


class ConfigError(VinfCoreError, ValueError):
    """The engine cannot be set up as asked, for example more ranks than CUDA devices."""


class CheckpointError(VinfCoreError, ValueError):
    """A checkpoint cannot be resumed from; the message says what does not fit."""


class GenerationCancelledError(VinfCoreError):
    """Raised on every rank at the same step boundary after a cancel; not an error of the group."""


class OutputInvalidError(VinfCoreError):
    """Raised on every rank alike: NaN or infinity in latents or pictures, or nothing but black."""


class OutOfStepError(VinfCoreError):
    """The ranks no longer agree on what to do; only a restart of the group helps."""

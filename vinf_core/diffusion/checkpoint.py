"""The state of some frames between two denoising steps: all that the solver needs to go on as if nothing had happened.

A checkpoint is kept frame by frame, so that any other number of ranks can be given any run of frames; frames are those
of the latent time axis throughout. A record is one frame: ``b"VNF1"``, the CRC-32 of the rest (four bytes,
little-endian), then a safetensors file that holds

* ``version``, ``frame``, ``completed_steps`` and ``lower_order_nums``, int64 scalars,
* ``latents``, ``[C, h, w]``, in the dtype of the loop,
* ``model_output_0``, … : what the solver remembers of the model's predictions, oldest first, ``[C, h, w]`` each,
* ``is_key_frame``, an int64 scalar, 0 or 1: whether its scene sees this frame; only where global frames are key frames.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vinf_core.diffusion.host_copy import begin_copies
from vinf_core.errors import CheckpointError

_MAGIC = b"VNF1"
_HEAD = struct.Struct("<4sI")
_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Consecutive frames after ``completed_steps`` steps; the tensors are on the CPU once `wait` has returned."""

    completed_steps: int
    """Steps done, which is also the solver's step index."""
    start_frame: int
    """Index of the first frame in the video."""
    latents: torch.Tensor
    """``[f, C, h, w]``; f may be 0."""
    model_outputs: tuple[torch.Tensor, ...] = ()
    """What the solver's next step needs of past predictions, oldest first, ``[f, C, h, w]`` each; DDIM needs none."""
    lower_order_nums: int = 0
    """How many predictions a multistep solver has seen, up to its order."""
    are_key_frames: tuple[bool, ...] | None = None
    """Of each frame whether it is a global one; None where those are evenly spaced."""
    copied: torch.cuda.Event | None = None
    """Recorded behind the copies from a GPU; None when there was nothing to copy."""
    video_frames: int = 0
    """Frames of the whole video; 0: not told."""

    @property
    def frame_count(self) -> int:
        """Frames in it."""
        return self.latents.shape[0]

    @property
    def is_finite(self) -> bool:
        """Whether it holds neither NaN nor infinity; waits for the GPU."""
        self.wait()
        return all(bool(tensor.isfinite().all()) for tensor in (self.latents, *self.model_outputs))

    def wait(self) -> None:
        """Wait until the tensors have arrived from the GPU."""
        if self.copied is not None:
            self.copied.synchronize()


class CheckpointStore(Protocol):
    """Where one rank's share of a generation's checkpoints is safe; called from the thread that runs the engine.

    Nothing here but `fetch` blocks for longer than its timeout.
    """

    @property
    def seconds(self) -> float:
        """CPU seconds that threads other than the engine's have spent on saving so far."""

    @property
    def has_room(self) -> bool:
        """Whether `save` can be called: the one before is on its way no more."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Send a checkpoint off, for which there is room; returns at once."""

    def wait_until_stored(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until what was saved has arrived; return whether it has."""

    def fetch(self, completed_steps: int, frames: range) -> Checkpoint:
        """Get consecutive frames back, whichever ranks saved them.

        Raises:
            CheckpointError: they are damaged.
        """


def capture(
    scheduler: Any,
    latents: torch.Tensor,
    *,
    completed_steps: int,
    start_frame: int,
    count: int,
    are_key_frames: tuple[bool, ...] | None = None,
    video_frames: int = 0,
) -> Checkpoint:
    """Take the state of a rank's first ``count`` frames; copies from a GPU are only begun (see `Checkpoint.wait`).

    Args:
        scheduler: after ``completed_steps`` steps.
        latents: ``[f, C, h, w]`` after the same steps; f is 1 for the idle frame of an empty clip, whose count is 0.
        completed_steps: steps done.
        start_frame: index of the first frame in the video.
        count: frames of the clip.
        are_key_frames: see `Checkpoint.are_key_frames`.
        video_frames: of the whole video.
    """
    # The next step drops the oldest prediction before it looks at any.
    remembered = [output for output in getattr(scheduler, "model_outputs", [])[1:] if output is not None]
    on_host, copied = begin_copies(tensor[:count] for tensor in (latents, *remembered))
    return Checkpoint(
        completed_steps=completed_steps,
        start_frame=start_frame,
        latents=on_host[0],
        model_outputs=tuple(on_host[1:]),
        lower_order_nums=getattr(scheduler, "lower_order_nums", 0),
        are_key_frames=are_key_frames,
        copied=copied,
        video_frames=video_frames,
    )


def restore(scheduler: Any, checkpoint: Checkpoint, device: torch.device) -> torch.Tensor:
    """Set a fresh scheduler to where the checkpoint was taken; return the latents, ``[f, C, h, w]``, on ``device``.

    Raises:
        CheckpointError: it was taken with another solver.
    """
    slots = len(getattr(scheduler, "model_outputs", ()))
    # All but the oldest slot are filled once as many steps are done.
    expected = min(max(slots - 1, 0), checkpoint.completed_steps)
    if len(checkpoint.model_outputs) != expected:
        raise CheckpointError(
            f"model_outputs: the checkpoint has {len(checkpoint.model_outputs)}, the solver needs {expected}"
        )
    if slots:
        outputs = [output.to(device) for output in checkpoint.model_outputs]
        scheduler.model_outputs = [None] * (slots - len(outputs)) + outputs
        scheduler.lower_order_nums = checkpoint.lower_order_nums
        scheduler._step_index = checkpoint.completed_steps
    elif hasattr(scheduler, "set_begin_index"):  # remembers nothing, but counts its steps
        scheduler.set_begin_index(checkpoint.completed_steps)
    return checkpoint.latents.to(device)


def to_records(checkpoint: Checkpoint) -> Iterator[bytes]:
    """Write one record a frame, in order; waits for copies from a GPU."""
    checkpoint.wait()
    tensors = {"latents": checkpoint.latents.numpy()}
    tensors |= {f"model_output_{i}": output.numpy() for i, output in enumerate(checkpoint.model_outputs)}
    for index in range(checkpoint.frame_count):
        scalars = {
            "version": _VERSION,
            "frame": checkpoint.start_frame + index,
            "completed_steps": checkpoint.completed_steps,
            "lower_order_nums": checkpoint.lower_order_nums,
        }
        if checkpoint.are_key_frames is not None:
            scalars["is_key_frame"] = checkpoint.are_key_frames[index]
        body = save(
            {name: np.array(value, dtype=np.int64) for name, value in scalars.items()}
            | {name: np.ascontiguousarray(tensor[index]) for name, tensor in tensors.items()}
        )
        yield _HEAD.pack(_MAGIC, zlib.crc32(body)) + body


def from_records(records: Iterable[bytes], *, completed_steps: int, frames: range) -> Checkpoint:
    """Read consecutive frames back.

    Args:
        records: as `to_records` wrote them, in order, by whatever ranks.
        completed_steps: steps that must have been done.
        frames: indices of the frames that must be there, at least one.

    Raises:
        CheckpointError: a record is damaged, missing, or of another frame, step or version.
    """
    read = [_read_record(record) for record in records]
    found = [(int(tensors["completed_steps"]), int(tensors["frame"])) for tensors in read]
    if found != [(completed_steps, frame) for frame in frames]:
        raise CheckpointError(
            f"records: frames {[frame for _, frame in found]} of steps {sorted({step for step, _ in found})} came, "
            f"frames {frames.start} to {frames.stop - 1} of step {completed_steps} were asked for"
        )
    outputs = sum(name.startswith("model_output_") for name in read[0])

    def joined(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([tensors[name] for tensors in read]))

    try:
        return Checkpoint(
            completed_steps=completed_steps,
            start_frame=frames.start,
            latents=joined("latents"),
            model_outputs=tuple(joined(f"model_output_{i}") for i in range(outputs)),
            lower_order_nums=int(read[0]["lower_order_nums"]),
            are_key_frames=(
                tuple(bool(tensors["is_key_frame"]) for tensors in read) if "is_key_frame" in read[0] else None
            ),
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"records: the frames do not fit together: {error}") from error


def _read_record(record: bytes) -> dict[str, Any]:
    if len(record) < _HEAD.size:
        raise CheckpointError(f"record: {len(record)} bytes are too few")
    magic, checksum = _HEAD.unpack_from(record)
    body = record[_HEAD.size :]
    if magic != _MAGIC or checksum != zlib.crc32(body):
        raise CheckpointError(f"record: {len(record)} bytes are damaged or are no checkpoint of a frame")
    try:
        tensors = load(body)
        version = int(tensors["version"])
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"record: not readable: {error}") from error
    if version != _VERSION:
        raise CheckpointError(f"version: {version} is not {_VERSION}")
    return dict(tensors)

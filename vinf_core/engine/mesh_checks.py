"""Whether a model can be computed on a mesh."""

from __future__ import annotations

from vinf_core.distributed.collectives import check_heads
from vinf_core.distributed.topology import Mesh
from vinf_core.errors import ConfigError
from vinf_core.models.adapter import VideoModel


def check_mesh(model: VideoModel, mesh: Mesh) -> None:
    """Check at start what a model's denoiser must have for the ranks to divide its work.

    Raises:
        ConfigError: it has no attention whose tokens could be divided, or one whose heads cannot be divided evenly.
    """
    if mesh.context == 1:
        return
    names = model.temporal_sites.joint_attentions
    if not names:
        raise ConfigError(
            f"context-ranks: {mesh.context} is not 1, which is all that the model {model.limits.name} allows: it has "
            "no joint attention over space and time whose tokens ranks could divide"
        )
    for name in names:
        check_heads(int(model.unet.get_submodule(name).heads), mesh.context)  # type: ignore[arg-type]

"""Orders go without the pixels of their image conditions until the moment they leave."""

from __future__ import annotations

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.front.generations.generations import Generations


class ImageSupply:
    """Puts the pixels in; until then they are on the disk."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    async def fill(self, order: link_pb2.AttachResponse) -> link_pb2.AttachRequest | None:
        """Complete an order, or return what the ranks would report if they could not make it."""
        conditions = order.generate.image_conditions if order.HasField("generate") else ()
        if not conditions:
            return None
        generation_id = order.generate.generation_id
        generation = self._generations.find(generation_id)
        try:
            if generation is None:
                raise OSError("the generation is gone")
            images = await generation.images.read()
        except OSError as error:
            return link_pb2.AttachRequest(
                finished=link_pb2.FinishedReport(
                    generation_id=generation_id,
                    outcome=link_pb2.OUTCOME_FAILED,
                    reason="IMAGE_DAMAGED",
                    message=f"its images cannot be read from the server's disk: {error.strerror or error}",
                )
            )
        for condition, image in zip(conditions, images, strict=True):
            condition.pixels = image
        return None

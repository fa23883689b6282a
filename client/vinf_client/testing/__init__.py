"""A server for tests of your own code: real gRPC, no GPU, no torch, frames that follow from their index.

>>> import numpy as np
>>> from vinf_client import Client
>>> from vinf_client.testing import FakeServer, fake_pixels
>>> with FakeServer() as server, Client(server.address) as client:
...     frames = list(client.generate("a red ball", frames=3))
>>> np.array_equal(frames[2], fake_pixels(2))
True
"""

from vinf_client.testing._pixels import fake_pixels as fake_pixels
from vinf_client.testing._script import Script as Script
from vinf_client.testing._server import FakeServer as FakeServer

__all__ = ["FakeServer", "Script", "fake_pixels"]

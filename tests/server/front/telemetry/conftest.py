"""The public server, as the tests of its calls have it."""

from tests.server.front.rpc.conftest import behind as behind
from tests.server.front.rpc.conftest import run as run

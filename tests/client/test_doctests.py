"""What the docstrings show is what happens."""

import doctest
import importlib
import pkgutil

import pytest

import vinf_client

pytestmark = pytest.mark.fast

MODULES = [
    module.name
    for module in pkgutil.walk_packages(vinf_client.__path__, "vinf_client.")
    if not module.name.startswith("vinf_client.cli")
]

WITH_EXAMPLES = {"vinf_client._client", "vinf_client._aio.client", "vinf_client.testing", "vinf_client.testing._pixels"}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.failed == 0
    assert found.attempted > 0 or name not in WITH_EXAMPLES

"""The asynchronous client behind the synchronous one's face, so that one test tries both."""

import asyncio
import inspect

from vinf_client import AsyncClient, AsyncFramePuller, AsyncGenerationHandle, AsyncVideo

_WRAPPED = (AsyncClient, AsyncGenerationHandle, AsyncVideo, AsyncFramePuller)


class Blocking:
    """Runs an event loop whenever its subject would be awaited."""

    def __init__(self, subject, loop):
        self._subject = subject
        self._loop = loop

    def __getattr__(self, name):
        found = getattr(self._subject, name)
        return self._call(found) if inspect.isroutine(found) else self._settle(found)

    def __len__(self):
        return len(self._subject)

    def __iter__(self):
        return self._iterate(aiter(self._subject))

    def __enter__(self):
        self._loop.run_until_complete(self._subject.__aenter__())
        return self

    def __exit__(self, *error):
        self._loop.run_until_complete(self._subject.__aexit__(*error))

    def _call(self, method):
        async def within(*arguments, **options):
            return method(*arguments, **options)  # some need the loop to be running

        def call(*arguments, **options):
            return self._settle(self._loop.run_until_complete(within(*arguments, **options)))

        return call

    def _settle(self, found):
        if inspect.isasyncgen(found):
            return self._iterate(found)
        if inspect.isawaitable(found):

            async def wait():
                return await found

            found = self._loop.run_until_complete(wait())
        return Blocking(found, self._loop) if isinstance(found, _WRAPPED) else found

    def _iterate(self, found):
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(anext(found))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(found.aclose())


class BlockingClient(Blocking):
    """A client with an event loop of its own; close it by `with`."""

    def __init__(self, *arguments, **options):
        super().__init__(AsyncClient(*arguments, **options), asyncio.new_event_loop())

    def __exit__(self, *error):
        super().__exit__(*error)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

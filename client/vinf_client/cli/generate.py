"""`vinf generate`: a prompt in, a video file out."""

import argparse
import logging
import sys
import threading
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vinf_client._client import Client
from vinf_client._errors import InvalidRequestError, ModelNotFoundError, OutputError, VinfError
from vinf_client._generation import GenerationHandle
from vinf_client._local import LocalServer
from vinf_client._request import SpecArguments, check
from vinf_client._types import Generation
from vinf_client._writers import VideoShape
from vinf_client.cli.common import MistakesError, client_of, print_json
from vinf_client.cli.following import Follower, come_back_later, download_command, run_interruptible
from vinf_client.cli.generate_options import (
    DEFAULT_PREVIEW_EVERY,
    build_parser,
    check_combination,
    image_names,
    job_options,
    serve_arguments,
    spec_options,
    take_story,
)
from vinf_client.cli.interrupts import Interruptible
from vinf_client.cli.pictures import PictureDisplay
from vinf_client.cli.previews import preview_display
from vinf_client.output import Target
from vinf_client.progress import Display, choose_display
from vinf_client.sheet import ContactSheet, check_sheet

log = logging.getLogger("vinf_client")

_STORY_NAMES = {"prompt": "story: prompt", "negative_prompt": "story: negative_prompt"}


@dataclass(frozen=True, slots=True)
class Recording:
    """What came of the call, by the caller's own clock; it runs from the moment the server accepted."""

    generation: Generation
    frames: int
    seconds: float
    seconds_to_first_frame: float
    seconds_waiting: float  # before that, for ranks that started or a full queue
    front_memory_bytes: int | None
    output: Path
    sheet: Path | None


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    check_combination(parser, arguments)
    work = _detach if arguments.detach else _generate
    return run_interruptible(
        parser.prog,
        lambda interruptible: work(arguments, interruptible),
        names={**(_STORY_NAMES if arguments.story is not None else {}), **image_names(arguments)},
    )


def _detach(arguments: argparse.Namespace, interruptible: Interruptible[int | None]) -> None:
    """Leave the generation to the server, and say how to come back to it."""
    take_story(arguments)
    with ExitStack() as stack:
        display = choose_display(quiet=arguments.quiet)
        stack.callback(display.close)
        client = stack.enter_context(client_of(arguments))
        interruptible.on_stop(client.close)
        handle = client.submit(
            arguments.prompt,
            on_wait=display.waiting,
            wait_ready=arguments.wait_ready,
            request_id=arguments.request_id,
            preview_every=arguments.preview_every,
            **job_options(arguments),
            **spec_options(arguments),
        )
        display.close()
    if arguments.json:
        print_json(handle.generation)
    else:
        print(handle.generation_id)
    if not arguments.quiet:
        print(f"vinf: the server makes it; fetch it with: {download_command(handle.generation_id)}", file=sys.stderr)


def _prepare(arguments: argparse.Namespace) -> tuple[Target, Path | None]:
    """Take the story in, and prove that the outputs can be written, before a server is asked for work.

    Raises:
        VinfError: with every mistake; where the outputs are to blame, also with those of the request.
    """
    mistakes: list[VinfError] = []
    try:
        take_story(arguments)
        has_request = True
    except InvalidRequestError as error:
        mistakes.append(error)
        has_request = False
    sheet = None
    try:
        target = Target.parse(arguments.output)
        target.prepare()
    except OutputError as error:
        mistakes.append(error)
    try:
        sheet = check_sheet(arguments.sheet) if arguments.sheet else None
    except OutputError as error:
        mistakes.append(error)
    if not mistakes:
        return target, sheet
    if has_request:
        mistakes += _request_mistakes(arguments)
    raise mistakes[0] if len(mistakes) == 1 else MistakesError(mistakes)


def _request_mistakes(arguments: argparse.Namespace) -> list[VinfError]:
    """Find out what is wrong with the request; the server's part only where there is one to ask."""
    if arguments.local:
        found = check(SpecArguments(prompt=arguments.prompt, **spec_options(arguments)))
        return [InvalidRequestError.of(found)] if found else []
    try:
        with client_of(arguments) as client:
            client.check(arguments.prompt, **job_options(arguments), **spec_options(arguments))
    except (InvalidRequestError, ModelNotFoundError) as error:
        return [error]
    except VinfError:
        pass  # what is known already is reason enough to stop
    return []


def _generate(arguments: argparse.Namespace, interruptible: Interruptible[int | None]) -> None:
    target, sheet = _prepare(arguments)
    with ExitStack() as stack:
        display = preview_display(arguments)
        stack.callback(display.close)
        local: LocalServer | None = None
        if arguments.local:
            display.note("starting a local server")
            local = LocalServer(serve_arguments(arguments))
            interruptible.last_act = local.kill
            interruptible.on_stop(local.stop)
            stack.enter_context(local)
        # Nobody else's token or certificates are for a server of one's own.
        made = client_of(arguments) if local is None else Client(local.address, token="", tls=False)
        client = stack.enter_context(made)
        interruptible.on_stop(client.close)
        try:
            recording = _record(client, arguments, target, sheet, display, local, interruptible)
        except VinfError:
            if local is not None:
                local.check()  # the last words of a dead server explain more than a broken connection
            raise
        display.close()
        if not arguments.quiet:
            print(_summary(recording), file=sys.stderr)
        if arguments.json:
            print_json(_figures(recording))


def _show_updates(handle: GenerationHandle, follower: Follower, display: PictureDisplay) -> None:
    """Show progress and estimates until the generation has ended or the client is closed; runs in its own thread."""
    try:
        for update in handle.updates(previews=True, on_wait=follower.waiting):
            display.show_previews(update.previews)
            follower.update(update.generation.progress)
    except VinfError as error:
        # What is shown is a courtesy: the frames report what is wrong with the generation.
        log.info("progress of the generation is no longer known: %s", error)


def _record(
    client: Client,
    arguments: argparse.Namespace,
    target: Target,
    sheet_path: Path | None,
    display: Display,
    local: LocalServer | None,
    interruptible: Interruptible[int | None],
) -> Recording:
    """Generate, and write each frame as it arrives."""
    called = time.monotonic()
    first = 0.0
    count = 0
    sheet: ContactSheet | None = None
    follower = Follower(display)
    pictures = display if isinstance(display, PictureDisplay) else None
    preview_every = arguments.preview_every
    if preview_every is None and pictures is not None:
        preview_every = DEFAULT_PREVIEW_EVERY
    video = client.generate(
        arguments.prompt,
        on_progress=follower.update if pictures is None else None,
        on_wait=follower.waiting,
        wait_ready=arguments.wait_ready,
        request_id=arguments.request_id,
        preview_every=preview_every or None,
        **job_options(arguments),
        **spec_options(arguments),
    )
    interruptible.on_stop(video.close)
    if local is None:  # a server of one's own does not come back
        follower.generation_id = video.generation_id
    if pictures is not None:
        threading.Thread(
            target=_show_updates, args=(video.handle, follower, pictures), name="vinf-updates", daemon=True
        ).start()
    began = time.monotonic()
    shape = VideoShape(video.frame_count, video.width, video.height, video.frame_rate)
    with _hint(video.generation_id, local), video, target.open(shape) as writer:
        for index, frame in enumerate(video):
            if index == 0:
                first = time.monotonic() - began
                if sheet_path is not None:  # the clips are known from the start of the work on
                    started = video.handle.refresh()
                    sheet = ContactSheet(video.frame_count, started.clips, started.spec.prompt_segments)
            pixels = np.asarray(frame)
            writer.write(pixels)
            if pictures is not None:
                pictures.show_frame(pixels)
            if sheet is not None:
                sheet.add(index, pixels)
            count += 1
    seconds = time.monotonic() - began
    generation = video.handle.refresh()
    if sheet is not None and sheet_path is not None:
        sheet.save(sheet_path)
    front_memory = local.peak_memory_bytes() if local is not None else None
    return Recording(generation, count, seconds, first, began - called, front_memory, target.path, sheet_path)


def _hint(generation_id: str, local: LocalServer | None) -> AbstractContextManager[None]:
    return come_back_later(generation_id) if local is None else nullcontext()


def _summary(recording: Recording) -> str:
    clips = [clip.frame_count for clip in recording.generation.clips]
    ranks = f"on {len(clips)} rank{'s' if len(clips) != 1 else ''} ({' + '.join(map(str, clips))})" if clips else ""
    return (
        f"vinf: {recording.output}: {recording.frames} frames in {recording.seconds:.1f} s {ranks}, "
        f"first after {recording.seconds_to_first_frame:.1f} s, seed {recording.generation.spec.seed}"
    )


def _figures(recording: Recording) -> dict[str, object]:
    generation = recording.generation
    spec = generation.spec
    figures: dict[str, object] = {
        "generation_id": generation.generation_id,
        "state": generation.state.value,
        "model": spec.model,
        "seed": spec.seed,
        "frames": recording.frames,
        "width": spec.width,
        "height": spec.height,
        "frame_rate": spec.frame_rate,
        "seconds": recording.seconds,
        "seconds_to_first_frame": recording.seconds_to_first_frame,
        "seconds_waiting": recording.seconds_waiting,
        "frames_per_second": recording.frames / recording.seconds if recording.seconds > 0 else 0.0,
        "ranks": len(generation.clips),
        "clips": [clip.frame_count for clip in generation.clips],
        "peak_rank_memory_bytes": generation.peak_rank_memory_bytes,
        "output": str(recording.output),
        "sheet": str(recording.sheet) if recording.sheet is not None else None,
        "resolved_spec": spec,
    }
    if recording.front_memory_bytes is not None:
        figures["peak_front_memory_bytes"] = recording.front_memory_bytes
    return figures

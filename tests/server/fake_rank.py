"""A scripted rank: speaks `vinf.engine.v1` as a real one does, makes frames out of numbers, and knows no model.

Prompts are stage directions: "slow" waits between frames for a cancel, "hang" stops after the first frame unless it is
resumed, "crash" kills the rank, "fail" reports a failure, "short" forgets the last frame, "huge" does not fit into
memory. Frames with an image condition are its pixels. Previews show the first and the last frame of each of its two
clips, in a colour that grows lighter. VINF_MODEL=unknown fails to start. A frame takes as much of VINF_MEMORY_BUDGET as
`memory_model` says.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import socket
import sys
import threading
import time

import grpc

from tests.server.fakes import frame_bytes, memory_model, model_limits
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf.engine.v1 import engine_link_service_pb2_grpc as pb_grpc
from vinf_server.link_security import LinkSecurity, open_channel


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if os.environ["VINF_MODEL"] == "unknown":
        with open(os.environ["VINF_FAILURE_FILE"], "w") as file:
            json.dump({"reason": "MODEL_NOT_FOUND", "message": "no model is called 'unknown'"}, file)
        sys.exit(3)
    if os.environ["VINF_MODEL"] == "crash":
        sys.exit(f"rank {rank} cannot load its weights")
    stop_file = os.environ["VINF_FAILURE_FILE"] + ".stop"
    security = LinkSecurity.from_environment(os.environ)
    metadata = (("vinf-epoch", os.environ["VINF_EPOCH"]), *security.metadata())
    channel = open_channel(os.environ["VINF_LINK"], security)
    stub = pb_grpc.EngineLinkServiceStub(channel)
    frame_count, hangs = [0], threading.Event()
    threading.Thread(target=lambda: stub.Beat(beats(rank, frame_count, hangs), metadata=metadata), daemon=True).start()
    if rank == 0:
        reports: queue.SimpleQueue = queue.SimpleQueue()
        memory = memory_model(budget_bytes=int(os.environ["VINF_MEMORY_BUDGET"]), largest_clip_share=0.5)
        ready = pb.ReadyReport(world_size=world_size, model=model_limits(), memory=memory)
        reports.put(pb.AttachRequest(ready=ready))
        try:
            follow_orders(stub, metadata, reports, frame_count, hangs)
        except grpc.RpcError:
            time.sleep(1)  # the group is lost: whoever started it sees the rank that was lost first, and ends this one
            os._exit(1)
    else:
        hangs.set()  # only what rank 0 does is scripted
        while not os.path.exists(stop_file):
            time.sleep(0.05)
    open(stop_file, "w").close()
    os._exit(0)


def beats(rank, frame_count, hangs):
    progress_count = 0
    while True:
        progress_count += not hangs.is_set()
        yield pb.BeatRequest(
            rank=rank,
            pid=os.getpid(),
            host=socket.gethostname(),
            device="cpu",
            device_name="scripted",
            busy_seconds={"denoise": time.process_time()},
            frame_count=frame_count[0],
            progress_count=progress_count,
            memory_used_bytes=1000,
            memory_total_bytes=2000,
        )
        time.sleep(0.2)


def follow_orders(stub, metadata, reports, frame_count, hanging) -> None:
    cancelled: set[str] = set()
    for order in stub.Attach(iter(reports.get, None), metadata=metadata):
        kind = order.WhichOneof("order")
        if kind == "generate":
            arguments = (stub, metadata, reports, frame_count, order.generate, cancelled, hanging)
            threading.Thread(target=generate, args=arguments, daemon=True).start()
        elif kind == "cancel":
            cancelled.add(order.cancel.generation_id)
        else:
            return


def generate(stub, metadata, reports, frame_count, order, cancelled, hanging) -> None:
    generation_id, prompt = order.generation_id, order.prompt
    if "huge" in prompt:
        with open(os.environ["VINF_FAILURE_FILE"], "w") as file:
            json.dump({"reason": "GPU_OUT_OF_MEMORY", "message": "tried to allocate 80 GiB"}, file)
        os._exit(4)
    if "crash" in prompt:
        os._exit(1)
    hangs = "hang" in prompt and not order.clip_frame_counts
    first = order.frame_count // 2
    clips = [first, order.frame_count - first]
    reports.put(pb.AttachRequest(started=pb.StartedReport(generation_id=generation_id, clip_frame_counts=clips)))
    for step in range(order.step_count):
        report = pb.ProgressReport(
            generation_id=generation_id, stage=pb.STAGE_DENOISE, completed_step_count=step + 1, step_seconds=0.01
        )
        reports.put(pb.AttachRequest(progress=report))
        if order.preview_interval_steps and (step + 1) % order.preview_interval_steps == 0:
            for rank, request in enumerate(previews(order, clips, step + 1)):
                stub.SendPreview(pb.SendPreviewRequest(rank=rank, **request), metadata=metadata)
    outcome = pb.OUTCOME_SUCCEEDED

    images = {condition.frame_index: condition.pixels for condition in order.image_conditions}

    def frames():
        nonlocal outcome
        sent = 0
        for index in range(order.frame_count - ("short" in prompt)):
            if "fail" in prompt and index == 1:
                outcome = pb.OUTCOME_FAILED
                break
            if ("slow" in prompt or hangs) and index == 1:
                if hangs:
                    hanging.set()
                while hangs or generation_id not in cancelled:
                    time.sleep(0.01)
                outcome = pb.OUTCOME_CANCELLED
                break
            data = images.get(index) or frame_bytes(order.seed, index, order.width * order.height * 3)
            middle = len(data) // 2
            for begin, end in ((0, middle), (middle, len(data))):
                frame = pb.FrameData(
                    frame_index=index, data_offset_bytes=begin, data_size_bytes=len(data), data=data[begin:end]
                )
                yield pb.SendFramesRequest(generation_id=generation_id, frame=frame)
            sent += 1
            frame_count[0] += 1
        yield pb.SendFramesRequest(generation_id=generation_id, complete=pb.SendComplete(frame_count=sent))

    stub.SendFrames(frames(), metadata=metadata)
    failed = outcome == pb.OUTCOME_FAILED
    finished = pb.FinishedReport(
        generation_id=generation_id,
        outcome=outcome,
        reason="OUTPUT_INVALID" if failed else "",
        message="frame 1 is black" if failed else "",
        peak_memory_bytes=[1000, 1000],
    )
    reports.put(pb.AttachRequest(finished=finished))


def previews(order, clips, step):
    """What each rank shows after a step."""
    width, height = order.width // 8, order.height // 8
    data = bytes([255 * step // order.step_count]) * (3 * width * height)
    for start, count in zip((0, clips[0]), clips, strict=True):
        pictures = [
            pb.PreviewPicture(frame_index=frame, width=width, height=height, data=data)
            for frame in dict.fromkeys((start, start + count - 1))
            if count
        ]
        yield {"generation_id": order.generation_id, "step": step, "pictures": pictures}


if __name__ == "__main__":
    main()

/// @file
/// Frames for a render loop or a recorder, pulled by a thread of their own.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "vinf/client.h"
#include "vinf/frame.h"
#include "vinf/puller_types.h"
#include "vinf/status.h"

namespace vinf {

/// Pulls the frames of one generation into a ring of a few frames, while they are made.
///
/// Its thread reconnects, resumes, joins slices and checks every frame's CRC-32C. Frame buffers are pooled: once every
/// buffer has its size, neither this library's thread nor its callers allocate memory for frames (gRPC does, for what
/// it receives).
///
/// Thread-safety: one thread at a time may call `next` or `latest`; everything else may be called from any thread.
/// `latest` never waits, neither for the network nor for a lock.
class FramePuller {
public:
    /// Starts the thread. It never fails because of the server: that shows in `next` and `status`.
    ///
    /// INVALID_ARGUMENT: an option is out of range.
    static Result<FramePuller> start(const Client& client, const std::string& generation_id,
                                     const PullerOptions& options = {});

    FramePuller(FramePuller&&) noexcept;
    FramePuller& operator=(FramePuller&&) noexcept;

    /// Stops and joins the thread. Frame handles stay valid.
    ~FramePuller();

    /// For recorders: the next frame, in order, as soon as it is there. An empty frame is the end of the video.
    ///
    /// DEADLINE_EXCEEDED/NO_FRAME_YET: none came within `timeout`; ask again. Any other failure is final.
    Result<Frame> next(std::chrono::milliseconds timeout = std::chrono::seconds(60));

    /// For render ticks: the newest frame that is due at `media_time`, the one before again where none is, an empty one
    /// before the first.
    ///
    /// The first frame is due at once, whatever `media_time` is then; from there on both go at the same speed. Frames
    /// that are late are dropped; after a pause of more than PullerOptions::stall_after (the network's, the server's or
    /// the caller's) the clock is set anew.
    Frame latest(std::chrono::microseconds media_time);

    /// The newest frame there is, due or not; for Delivery::kLatest.
    Frame latest();

    /// Whether everything was shown that ever will be.
    bool is_finished() const;

    /// Why no further frame comes: OK while some may, and at the end of the video.
    Status status() const;

    PullerStatistics statistics() const;

    /// Ends the thread's work at once; `next` then returns CANCELLED/STOPPED, `latest` the last frame.
    void stop();

private:
    class Impl;
    explicit FramePuller(std::unique_ptr<Impl> impl);

    std::unique_ptr<Impl> impl_;
};

}  // namespace vinf

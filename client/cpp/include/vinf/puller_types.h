/// @file
/// Options and statistics of a FramePuller.
#pragma once

#include <chrono>
#include <cstdint>

#include "vinf/frame.h"

namespace vinf {

/// Which frames a puller brings.
enum class Delivery {
    /// Every frame, in order; the network waits while the ring is full. For recorders, and for playback at the video's
    /// own speed.
    kAll = 1,
    /// The newest frame there is; frames that nobody could see any more are never sent. For live views.
    kLatest = 2,
};

/// What a puller shall do. The defaults play or record a whole video in RGB.
struct PullerOptions {
    Delivery delivery = Delivery::kAll;
    OutputFormat format;
    std::int64_t start_frame = 0;  ///< First frame wanted.

    /// Frames pulled ahead. [2, 64]; 3 or 4 hide a late one, more cost memory and, with kLatest, nothing but that.
    int ring_frames = 4;

    /// Frame handles that the program keeps at a time besides the one shown last; see Frame. [1, 256]
    int held_frames = 2;

    /// Largest reply; a larger frame comes in slices. [64 KiB, 48 MiB]
    std::int64_t max_message_bytes = 16 << 20;

    /// Frames that the server keeps no longer or has lost to its disk are left out and counted
    /// (Statistics::frames_lost). Otherwise they end the puller, with FRAME_EVICTED or FRAME_DAMAGED.
    bool skip_missing_frames = true;

    /// Tell the server that frames taken by the program are not needed any more, by anybody. For generations with a
    /// retention window, which wait for it (OverflowPolicy::kBlock).
    bool release_frames = false;

    /// A frame that is overdue for so long is a stall: latest() sets its clock anew instead of fast-forwarding.
    std::chrono::milliseconds stall_after{250};

    /// Failures in a row, without a byte of a frame between, after which the puller gives up.
    int resume_attempts = 10;
};

/// What a puller did so far.
struct PullerStatistics {
    std::int64_t frames_received = 0;  ///< Whole, with the right checksum.
    std::int64_t frames_shown = 0;     ///< Given to the program, each counted once.
    std::int64_t frames_dropped = 0;   ///< Received, but never shown: too late, or a newer one was there.
    std::int64_t frames_skipped = 0;   ///< Never sent, because a newer one was there (Delivery::kLatest).
    std::int64_t frames_lost = 0;      ///< Missing on the server: evicted or damaged.
    std::int64_t repeats = 0;          ///< Ticks that showed a frame again although the next one was due.
    std::int64_t stalls = 0;           ///< Times that a frame was overdue for longer than stall_after.
    std::int64_t rebases = 0;          ///< Times that the clock of latest() was set anew.
    std::int64_t reconnects = 0;       ///< Broken connections and calls that were taken up again.
    std::int64_t damaged = 0;          ///< Frames that arrived with a wrong checksum and were pulled again.
    std::int64_t bytes_received = 0;   ///< Of frames.
    /// Of the frame shown last, when it was shown: this machine's clock less the server's.
    std::chrono::microseconds last_age{0};
};

}  // namespace vinf

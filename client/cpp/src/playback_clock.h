#pragma once

#include <chrono>
#include <optional>

namespace vinf::detail {

using Micros = std::chrono::microseconds;

/// Maps the consumer's media time to presentation times of the video. Not thread-safe.
///
/// A frame that is a little late is caught up with (frames between are dropped); after a longer pause, whoever made it,
/// the clock is set anew, so that the video goes on at its own speed instead of being fast-forwarded.
class PlaybackClock {
public:
    /// @param tolerance how far frame and clock may be apart before the clock is set anew.
    explicit PlaybackClock(Micros tolerance) : tolerance_(tolerance) {}

    /// Returns the presentation time that is due at `media_time`, given the frame that comes next. Sets the clock to
    /// that frame where there is none yet, or where they are too far apart; `rebased` then becomes true, but for the
    /// first time.
    Micros due(Micros media_time, Micros next_frame, Micros frame_duration, bool& rebased);

    /// The same without a next frame; nothing before the clock was set.
    std::optional<Micros> due(Micros media_time) const;

private:
    Micros tolerance_;
    std::optional<Micros> offset_;  // media time − presentation time
};

}  // namespace vinf::detail

#include "playback_clock.h"

#include <algorithm>

namespace vinf::detail {

Micros PlaybackClock::due(Micros media_time, Micros next_frame, Micros frame_duration, bool& rebased) {
    if (!offset_) {
        offset_ = media_time - next_frame;
        return next_frame;
    }
    const Micros apart = media_time - *offset_ - next_frame;
    // A slow video's frames are further apart than the tolerance as a matter of course.
    const Micros tolerance = std::max(tolerance_, 2 * frame_duration);
    if (apart > tolerance || apart < -tolerance) {
        offset_ = media_time - next_frame;
        rebased = true;
    }
    return media_time - *offset_;
}

std::optional<Micros> PlaybackClock::due(Micros media_time) const {
    if (!offset_) {
        return std::nullopt;
    }
    return media_time - *offset_;
}

}  // namespace vinf::detail

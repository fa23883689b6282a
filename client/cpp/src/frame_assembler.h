#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "frame_ring.h"
#include "vinf/frame.h"

namespace vinf::detail {

/// A message with a frame, or with a slice of one.
struct Slice {
    std::int64_t index = 0;
    std::chrono::microseconds presentation_time{0};
    std::chrono::system_clock::time_point generate_time;
    std::int64_t offset_bytes = 0;
    std::int64_t frame_bytes = 0;
    std::int64_t crc32c = -1;
    std::string* data = nullptr;  // swapped into the slot where it is a whole frame
};

/// Puts a frame together from its slices, in the slot it is shown from. Not thread-safe.
class FrameAssembler {
public:
    enum class Outcome {
        kPartial,   ///< More slices are due.
        kWhole,     ///< The slot holds the frame.
        kDamaged,   ///< Whole, but not what was sent; begin again.
        kProtocol,  ///< No slice that could come here.
    };

    /// Takes the next slice of frame `slice.index` into `slot`; the first one has offset 0.
    Outcome add(const Slice& slice, const VideoFormat& format, FrameSlot& slot);

    /// Forgets the slices of a frame whose rest will not come.
    void drop() { filled_bytes_ = 0; }

    /// Where the next slice begins.
    std::int64_t filled_bytes() const { return filled_bytes_; }

private:
    std::int64_t index_ = 0;
    std::int64_t filled_bytes_ = 0;
    std::uint32_t crc_ = 0;
};

}  // namespace vinf::detail

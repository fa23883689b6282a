#include "frame_assembler.h"

#include "crc32c.h"

namespace vinf::detail {
namespace {

/// No frame is larger; what claims to be is broken.
constexpr std::int64_t kLargestFrameBytes = std::int64_t{1} << 30;

}  // namespace

FrameAssembler::Outcome FrameAssembler::add(const Slice& slice, const VideoFormat& format, FrameSlot& slot) {
    const auto size = static_cast<std::int64_t>(slice.data->size());
    const bool is_continued = filled_bytes_ > 0;
    if (slice.offset_bytes != filled_bytes_ || (is_continued && slice.index != index_) || size == 0 ||
        slice.frame_bytes > kLargestFrameBytes || size > slice.frame_bytes - filled_bytes_ ||
        (format.frame_size_bytes != 0 && slice.frame_bytes != format.frame_size_bytes)) {
        drop();
        return Outcome::kProtocol;
    }
    crc_ = crc32c(is_continued ? crc_ : 0, slice.data->data(), slice.data->size());
    if (size == slice.frame_bytes) {
        slot.data.swap(*slice.data);
    } else {
        if (!is_continued) {
            slot.data.clear();
            slot.data.reserve(static_cast<std::size_t>(slice.frame_bytes));
        }
        slot.data.append(*slice.data);
    }
    index_ = slice.index;
    filled_bytes_ += size;
    if (filled_bytes_ < slice.frame_bytes) {
        return Outcome::kPartial;
    }
    filled_bytes_ = 0;
    if (slice.crc32c != static_cast<std::int64_t>(crc_)) {
        return Outcome::kDamaged;
    }
    slot.index = slice.index;
    slot.presentation_time = slice.presentation_time;
    slot.generate_time = slice.generate_time;
    slot.format = format;
    return Outcome::kWhole;
}

}  // namespace vinf::detail

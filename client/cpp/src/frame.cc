#include "vinf/frame.h"

#include <utility>

#include "frame_ring.h"

namespace vinf {

Frame::Frame(std::shared_ptr<detail::FrameRing> ring, detail::FrameSlot* slot) : ring_(std::move(ring)), slot_(slot) {}

Frame::Frame(const Frame& other) : ring_(other.ring_), slot_(other.slot_) {
    if (slot_ != nullptr) {
        detail::FrameRing::add_handle(slot_);
    }
}

Frame::Frame(Frame&& other) noexcept
    : ring_(std::move(other.ring_)), slot_(std::exchange(other.slot_, nullptr)) {}

Frame& Frame::operator=(const Frame& other) {
    Frame copy(other);
    std::swap(ring_, copy.ring_);
    std::swap(slot_, copy.slot_);
    return *this;
}

Frame& Frame::operator=(Frame&& other) noexcept {
    if (this != &other) {
        reset();
        ring_ = std::move(other.ring_);
        slot_ = std::exchange(other.slot_, nullptr);
    }
    return *this;
}

Frame::~Frame() { reset(); }

void Frame::reset() {
    if (slot_ != nullptr) {
        ring_->drop_handle(std::exchange(slot_, nullptr));
        ring_.reset();
    }
}

std::int64_t Frame::index() const { return slot_->index; }
std::chrono::microseconds Frame::presentation_time() const { return slot_->presentation_time; }
std::chrono::system_clock::time_point Frame::generate_time() const { return slot_->generate_time; }
const std::uint8_t* Frame::data() const { return reinterpret_cast<const std::uint8_t*>(slot_->data.data()); }
std::size_t Frame::size() const { return slot_->data.size(); }
const VideoFormat& Frame::format() const { return slot_->format; }

PlaneView Frame::plane(std::size_t number) const {
    PlaneView view;
    if (number < slot_->format.plane_count) {
        const Plane& plane = slot_->format.planes[number];
        view.data = data() + plane.offset_bytes;
        view.stride_bytes = plane.stride_bytes;
        view.row_bytes = plane.row_bytes;
        view.row_count = plane.row_count;
    }
    return view;
}

}  // namespace vinf

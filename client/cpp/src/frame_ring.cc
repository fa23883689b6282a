#include "frame_ring.h"

#include <algorithm>
#include <utility>

namespace vinf::detail {
namespace {

constexpr int kLockAttempts = 500;

/// How often a slot is looked for whose last handle went without the lock.
constexpr std::chrono::milliseconds kLookAgain{20};

bool lock_soon(std::unique_lock<std::mutex>& lock) {
    for (int attempt = 0; attempt < kLockAttempts; ++attempt) {
        if (lock.try_lock()) {
            return true;
        }
        std::atomic_signal_fence(std::memory_order_seq_cst);  // keeps the loop a loop
    }
    return false;
}

}  // namespace

FrameRing::FrameRing(Shape shape)
    : shape_(shape),
      // One more is shown, and one is being filled.
      slot_count_(static_cast<std::size_t>(shape.ring_frames) + static_cast<std::size_t>(shape.held_frames) + 2),
      slots_(std::make_unique<FrameSlot[]>(slot_count_)),
      clock_(shape.stall_after) {
    queue_.reserve(slot_count_);
}

FrameSlot* FrameRing::wait_for_slot(std::chrono::milliseconds timeout) {
    const auto until = std::chrono::steady_clock::now() + timeout;
    std::unique_lock<std::mutex> lock(mutex_);
    while (!is_stopped_) {
        const bool has_room = queue_.size() < static_cast<std::size_t>(shape_.ring_frames);
        if (has_room) {
            if (FrameSlot* slot = idle_slot()) {
                return slot;
            }
        }
        const auto now = std::chrono::steady_clock::now();
        if (now >= until) {
            break;
        }
        room_.wait_until(lock, has_room ? std::min(until, now + kLookAgain) : until);
    }
    return nullptr;
}

FrameSlot* FrameRing::slot_at_once() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (queue_.size() >= static_cast<std::size_t>(shape_.ring_frames)) {
        drop_front();
    }
    FrameSlot* slot = idle_slot();
    if (slot == nullptr && !queue_.empty()) {
        drop_front();
        slot = idle_slot();
    }
    return slot;
}

void FrameRing::publish(FrameSlot* slot) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        slot->use = FrameSlot::Use::kQueued;
        queue_.push_back(slot);
        ++statistics_.frames_received;
    }
    filled_.notify_one();
}

void FrameRing::give_back(FrameSlot* slot) {
    const std::lock_guard<std::mutex> lock(mutex_);
    slot->use = FrameSlot::Use::kIdle;
}

void FrameRing::finish(Status status) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_finished_ = true;
        status_ = std::move(status);
    }
    filled_.notify_all();
}

bool FrameRing::wait_for_stop(std::chrono::milliseconds timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    return room_.wait_for(lock, timeout, [this] { return is_stopped_; });
}

Result<Frame> FrameRing::next(std::chrono::milliseconds timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto is_decided = [this] { return !queue_.empty() || is_finished_ || is_stopped_; };
    const auto asked = std::chrono::steady_clock::now();
    const bool decided = filled_.wait_until(lock, asked + timeout, is_decided);
    if (statistics_.frames_shown > 0 && std::chrono::steady_clock::now() - asked > shape_.stall_after) {
        ++statistics_.stalls;
    }
    if (!decided) {
        return Status::of(Code::kDeadlineExceeded, "NO_FRAME_YET",
                          "no frame came within " + std::to_string(timeout.count()) + " ms");
    }
    if (is_stopped_) {
        return stop_status_;
    }
    if (queue_.empty()) {
        return status_.ok() ? Result<Frame>(Frame()) : Result<Frame>(status_);
    }
    FrameSlot* slot = pop_front();
    note_shown(*slot);
    add_handle(slot);
    lock.unlock();
    room_.notify_one();
    return Frame(shared_from_this(), slot);
}

Frame FrameRing::latest(const std::chrono::microseconds* media_time) {
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    if (lock_soon(lock)) {
        if (is_stopped_) {
            // The last frame stays on the screen.
        } else if (media_time != nullptr) {
            choose(*media_time);
        } else if (queue_.empty()) {
            note_overdue();
        } else {
            while (queue_.size() > 1) {
                drop_front();
            }
            show_front();
        }
        lock.unlock();
        room_.notify_one();
    }
    if (last_ == nullptr) {
        return Frame();
    }
    add_handle(last_);
    return Frame(shared_from_this(), last_);
}

void FrameRing::choose(std::chrono::microseconds media_time) {
    if (queue_.empty()) {
        const std::optional<Micros> due = clock_.due(media_time);
        if (last_ != nullptr && due && *due > last_->presentation_time + last_->format.frame_duration()) {
            note_overdue();
        }
        return;
    }
    bool rebased = false;
    const FrameSlot& next = *queue_.front();
    const Micros due = clock_.due(media_time, next.presentation_time, next.format.frame_duration(), rebased);
    statistics_.rebases += rebased;
    while (queue_.size() > 1 && queue_[1]->presentation_time <= due) {
        drop_front();
    }
    if (queue_.front()->presentation_time <= due) {
        show_front();
    }
}

void FrameRing::show_front() {
    if (last_ != nullptr) {
        last_->handles.fetch_sub(1, std::memory_order_acq_rel);
    }
    last_ = pop_front();
    add_handle(last_);
    note_shown(*last_);
}

void FrameRing::note_shown(const FrameSlot& slot) {
    ++statistics_.frames_shown;
    statistics_.last_age =
        std::chrono::duration_cast<Micros>(std::chrono::system_clock::now() - slot.generate_time);
    first_untaken_ = slot.index + 1;
    is_overdue_ = is_stalled_ = false;
}

void FrameRing::note_overdue() {
    if (last_ == nullptr || is_finished_) {
        return;
    }
    ++statistics_.repeats;
    const auto now = std::chrono::steady_clock::now();
    if (!is_overdue_) {
        is_overdue_ = true;
        overdue_since_ = now;
    } else if (!is_stalled_ && now - overdue_since_ > shape_.stall_after) {
        is_stalled_ = true;
        ++statistics_.stalls;
    }
}

FrameSlot* FrameRing::idle_slot() {
    for (std::size_t number = 0; number < slot_count_; ++number) {
        FrameSlot& slot = slots_[number];
        if (slot.use == FrameSlot::Use::kIdle && slot.handles.load(std::memory_order_acquire) == 0) {
            slot.use = FrameSlot::Use::kFilling;
            return &slot;
        }
    }
    return nullptr;
}

FrameSlot* FrameRing::pop_front() {
    FrameSlot* slot = queue_.front();
    queue_.erase(queue_.begin());
    slot->use = FrameSlot::Use::kIdle;
    return slot;
}

void FrameRing::drop_front() {
    first_untaken_ = pop_front()->index + 1;
    ++statistics_.frames_dropped;
}

void FrameRing::drop_handle(FrameSlot* slot) noexcept {
    if (slot->handles.fetch_sub(1, std::memory_order_acq_rel) != 1) {
        return;
    }
    // Without the lock the network side might be about to wait and miss this; it looks again by itself, only later.
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    if (lock_soon(lock)) {
        lock.unlock();
        room_.notify_one();
    }
}

void FrameRing::stop(Status why) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!is_stopped_) {
            is_stopped_ = true;
            stop_status_ = std::move(why);
        }
    }
    room_.notify_all();
    filled_.notify_all();
}

bool FrameRing::is_stopped() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return is_stopped_;
}

bool FrameRing::is_finished() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return is_stopped_ || (is_finished_ && queue_.empty());
}

Status FrameRing::status() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return is_stopped_ ? stop_status_ : status_;
}

PullerStatistics FrameRing::statistics() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return statistics_;
}

std::int64_t FrameRing::first_untaken() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return first_untaken_;
}

}  // namespace vinf::detail

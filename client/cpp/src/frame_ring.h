#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "playback_clock.h"
#include "vinf/frame.h"
#include "vinf/puller_types.h"
#include "vinf/status.h"

namespace vinf::detail {

/// A frame's place in the pool. Its buffer is kept and used again.
struct FrameSlot {
    std::string data;  // a string, because protobuf parses into one: buffers are swapped, not copied
    std::int64_t index = 0;
    std::chrono::microseconds presentation_time{0};
    std::chrono::system_clock::time_point generate_time;
    VideoFormat format;

    enum class Use { kIdle, kFilling, kQueued };
    Use use = Use::kIdle;           // guarded by the ring's mutex
    std::atomic<int> handles{0};    // an idle slot with handles is the program's
};

/// The pool of frames between a network thread, which fills it, and a consumer, which shows what is in it.
///
/// One thread may call the network side, one at a time the consumer side (next, latest); statistics, stop and the ends
/// of frame handles may come from any thread. latest and the end of a handle never wait for a lock: where the lock stays
/// taken, which takes a network thread that lost its processor while it held it, latest repeats the last frame.
class FrameRing : public std::enable_shared_from_this<FrameRing> {
public:
    struct Shape {
        int ring_frames = 4;
        int held_frames = 2;
        std::chrono::milliseconds stall_after{250};
    };

    explicit FrameRing(Shape shape);

    // The network side.

    /// Waits for room and returns a slot to fill, null when `timeout` passed or the ring was stopped.
    FrameSlot* wait_for_slot(std::chrono::milliseconds timeout);

    /// Makes room by dropping the oldest frame that was not shown yet; null where the program holds every slot.
    FrameSlot* slot_at_once();

    /// Makes a filled slot visible to the consumer.
    void publish(FrameSlot* slot);

    /// Takes a slot back without showing it.
    void give_back(FrameSlot* slot);

    /// No frame will come any more: at the end of the video (an OK status), or because of a failure.
    void finish(Status status);

    /// Waits for `timeout` or for stop; true when stopped.
    bool wait_for_stop(std::chrono::milliseconds timeout);

    template <class Change>
    void count(Change change) {
        const std::lock_guard<std::mutex> lock(mutex_);
        change(statistics_);
    }

    // The consumer side.

    /// The next frame in order; an empty one at the end of the video; DEADLINE_EXCEEDED after `timeout`.
    Result<Frame> next(std::chrono::milliseconds timeout);

    /// The frame for `media_time`, or the newest one where there is none.
    Frame latest(const std::chrono::microseconds* media_time);

    // Any thread.

    /// Ends everything at once; `next` then returns `why`, the first one where there are several.
    void stop(Status why);
    bool is_stopped() const;
    /// Whether everything was shown that ever will be.
    bool is_finished() const;
    Status status() const;
    PullerStatistics statistics() const;
    /// The first frame that the consumer has not taken yet.
    std::int64_t first_untaken() const;

private:
    friend class ::vinf::Frame;

    static void add_handle(FrameSlot* slot) { slot->handles.fetch_add(1, std::memory_order_relaxed); }
    void drop_handle(FrameSlot* slot) noexcept;

    // With the lock held.
    FrameSlot* idle_slot();
    FrameSlot* pop_front();
    void drop_front();
    void show_front();
    void note_shown(const FrameSlot& slot);
    void note_overdue();
    void choose(std::chrono::microseconds media_time);

    const Shape shape_;
    const std::size_t slot_count_;
    const std::unique_ptr<FrameSlot[]> slots_;

    mutable std::mutex mutex_;
    std::condition_variable room_;    // the network side waits for it
    std::condition_variable filled_;  // the consumer waits for it
    std::vector<FrameSlot*> queue_;  // oldest first; never grows beyond its reserve
    bool is_stopped_ = false;
    Status stop_status_;
    bool is_finished_ = false;
    Status status_;
    PullerStatistics statistics_;
    PlaybackClock clock_;
    std::int64_t first_untaken_ = 0;

    // The consumer's own.
    FrameSlot* last_ = nullptr;  // what latest() showed; holds a handle
    std::chrono::steady_clock::time_point overdue_since_;
    bool is_overdue_ = false;
    bool is_stalled_ = false;
};

}  // namespace vinf::detail

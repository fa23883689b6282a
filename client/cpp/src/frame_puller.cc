// The thread behind a FramePuller.
//
// Frames are asked for in windows of a few frames. Two windows are on their way at a time, so that the next one travels
// while this one is taken in; they are taken in by index, so the order of replies does not matter. Frames are dense and
// their bytes never change: a window that was lost is asked for again from where it got to.
#include "vinf/frame_puller.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "convert.h"
#include "frame_assembler.h"
#include "frame_ring.h"
#include "transport.h"

namespace vinf {
namespace {

using std::chrono::milliseconds;

/// How long the server waits for a frame.
constexpr milliseconds kWait{10'000};

/// The same where it has to learn what was released: it hears of that with the next call.
constexpr milliseconds kReleasingWait{1'000};

/// While the program takes no frame, the generation's lease is renewed so often; leases last 5 s and more.
constexpr milliseconds kRenewal{2'000};

/// Small frames come together: a call costs more than 100 KiB do.
constexpr std::int64_t kWindowBytes = 2 << 20;
constexpr std::int64_t kMaxWindowFrames = 16;
constexpr std::int64_t kCompressedWindowFrames = 8;

std::optional<std::int64_t> number_in(const Status& status, const char* name) {
    const std::string* text = status.find(name);
    std::int64_t value = 0;
    if (text == nullptr || std::from_chars(text->data(), text->data() + text->size(), value).ec != std::errc()) {
        return std::nullopt;
    }
    return value;
}

Status protocol_error(const std::string& message) { return Status::of(Code::kInternal, "PROTOCOL", message); }

Status stopped() { return Status::of(Code::kCancelled, "STOPPED", "the puller was stopped"); }

template <class Number>
void check_range(std::vector<Violation>& violations, const char* name, Number value, Number low, Number high) {
    if (value < low || value > high) {
        violations.push_back({name, "must be in [" + std::to_string(low) + ", " + std::to_string(high) + "], got " +
                                        std::to_string(value)});
    }
}

}  // namespace

class FramePuller::Impl {
public:
    Impl(std::shared_ptr<detail::Transport> transport, const std::string& generation_id, const PullerOptions& options)
        : ring_(std::make_shared<detail::FrameRing>(
              detail::FrameRing::Shape{options.ring_frames, options.held_frames, options.stall_after})),
          transport_(std::move(transport)),
          generation_id_(generation_id),
          options_(options),
          attempts_(options.resume_attempts),
          frame_(options.start_frame),
          hook_(*transport_,
                [this] { stop(Status::of(Code::kCancelled, "CLIENT_CLOSED", "the client was closed")); }),
          thread_([this] { run(); }) {}

    ~Impl() {
        stop(stopped());
        thread_.join();
    }

    void stop(Status why) {
        ring_->stop(std::move(why));
        const std::lock_guard<std::mutex> lock(contexts_mutex_);
        for (Lane& lane : lanes_) {
            if (lane.context) {
                lane.context->TryCancel();
            }
        }
        if (renewal_) {
            renewal_->TryCancel();
        }
    }

    const std::shared_ptr<detail::FrameRing> ring_;

private:
    /// A window of frames and the call that brings it.
    struct Lane {
        enum class State { kIdle, kPending, kDone };
        State state = State::kIdle;
        std::int64_t begin = 0;
        std::int64_t end = 0;
        std::optional<grpc::ClientContext> context;
        v1::PullFramesRequest request;
        v1::PullFramesResponse response;  // used again and again: it keeps its buffers
        grpc::Status status;
        std::unique_ptr<grpc::ClientAsyncResponseReader<v1::PullFramesResponse>> reader;
    };

    void run() {
        Status status = transport_->connect();
        bool goes_on = status.ok();
        while (goes_on && !ring_->is_stopped()) {
            keep_pulling();
            Lane& lane = *lanes_in_order_[0];
            wait_for(lane);
            lane.state = Lane::State::kIdle;
            status = transport_->finished(lane.status);
            goes_on = status.ok() ? take(lane, status) : recover(status);
        }
        abandon_calls();
        calls_.Shutdown();
        void* tag = nullptr;
        bool is_fine = false;
        while (calls_.Next(&tag, &is_fine)) {
        }
        if (slot_ != nullptr) {
            ring_->give_back(std::exchange(slot_, nullptr));
        }
        ring_->finish(std::move(status));
    }

    bool wants_all() const { return options_.delivery == Delivery::kAll; }

    /// Asks for the window that is due and, ahead of time, for the one behind it.
    void keep_pulling() {
        Lane& due = *lanes_in_order_[0];
        if (due.state == Lane::State::kIdle) {
            if (frame_ >= due.end || frame_ < due.begin) {
                set_window(due, frame_);
            }
            start(due, frame_, assembler_.filled_bytes());
        }
        Lane& ahead = *lanes_in_order_[1];
        if (ahead.state == Lane::State::kIdle && wants_all() && format_ && due.end < format_->frame_count) {
            set_window(ahead, due.end);
            start(ahead, ahead.begin, 0);
        }
    }

    void set_window(Lane& lane, std::int64_t begin) {
        std::int64_t frames = 1;
        if (format_ && wants_all()) {
            frames = format_->frame_size_bytes == 0
                         ? kCompressedWindowFrames
                         : std::clamp<std::int64_t>(kWindowBytes / format_->frame_size_bytes, 1, kMaxWindowFrames);
            frames = std::min(frames, std::max<std::int64_t>(1, format_->frame_count - begin));
        }
        lane.begin = begin;
        lane.end = begin + frames;
    }

    void start(Lane& lane, std::int64_t frame, std::int64_t byte) {
        v1::PullFramesRequest& request = lane.request;
        request.set_generation_id(generation_id_);
        request.set_start_frame_index(frame);
        request.set_start_byte_offset(byte);
        request.set_max_frames(static_cast<std::int32_t>(lane.end - frame));
        request.set_max_data_bytes(options_.max_message_bytes);
        request.set_delivery(static_cast<v1::Delivery>(options_.delivery));
        request.set_known_format_revision(format_ ? format_->revision : 0);
        const milliseconds wait = options_.release_frames ? kReleasingWait : kWait;
        request.mutable_wait()->set_seconds(wait.count() / 1000);
        detail::write(options_.format, *request.mutable_output_format());
        if (options_.release_frames) {
            request.set_release_before_frame_index(ring_->first_untaken());
        }
        lane.reader.reset();  // it lives in the memory of the context's call
        {
            const std::lock_guard<std::mutex> lock(contexts_mutex_);
            lane.context.emplace();
            transport_->prepare(*lane.context);
            lane.context->set_deadline(std::chrono::system_clock::now() + wait + transport_->call_timeout());
        }
        lane.state = Lane::State::kPending;
        lane.reader = transport_->video().AsyncPullFrames(&*lane.context, request, &calls_);
        lane.reader->Finish(&lane.response, &lane.status, &lane);
        if (ring_->is_stopped()) {  // by a stop that came before there was a call to cancel
            lane.context->TryCancel();
        }
    }

    void wait_for(Lane& lane) {
        void* tag = nullptr;
        bool is_fine = false;
        while (lane.state == Lane::State::kPending && calls_.Next(&tag, &is_fine)) {
            static_cast<Lane*>(tag)->state = Lane::State::kDone;
        }
    }

    /// Forgets the calls under way and what they brought.
    void abandon_calls() {
        for (Lane& lane : lanes_) {
            if (lane.state == Lane::State::kPending) {
                lane.context->TryCancel();
                wait_for(lane);
            }
            lane.state = Lane::State::kIdle;
            lane.begin = lane.end = 0;
        }
    }

    /// Takes a reply in. False when nothing more comes; `status` then says why.
    bool take(Lane& lane, Status& status) {
        v1::PullFramesResponse& response = lane.response;
        if (response.has_format()) {
            Result<VideoFormat> format = detail::read(response.format());
            if (!format.ok()) {
                status = format.status();
                return false;
            }
            format_ = *format;
        }
        if (!format_) {
            status = protocol_error("the server sent frames without their format");
            return false;
        }
        count([&](PullerStatistics& statistics) { statistics.frames_skipped += response.skipped_frame_count(); });
        for (v1::Frame& frame : *response.mutable_frames()) {
            status = add(frame);
            if (!status.ok()) {
                return detail::is_transient(status) && recover(status);
            }
        }
        if (response.end_of_stream()) {
            status = detail::read(response.error());
            return false;
        }
        if (response.error().reason() == "SERVER_DRAINING") {
            return recover(status = detail::read(response.error()));
        }
        attempts_.progressed();
        if (wants_all() && frame_ >= lane.end) {
            std::swap(lanes_in_order_[0], lanes_in_order_[1]);
        }
        return true;
    }

    /// Takes a frame in, or a slice of one. UNAVAILABLE: it is damaged and has to be pulled again.
    Status add(v1::Frame& frame) {
        const bool is_expected = wants_all() || assembler_.filled_bytes() > 0 ? frame.frame_index() == frame_
                                                                              : frame.frame_index() >= frame_;
        if (!is_expected || frame.format_revision() != format_->revision) {
            return protocol_error("expected frame " + std::to_string(frame_) + ", the server sent frame " +
                                  std::to_string(frame.frame_index()));
        }
        if (Status status = make_room(); !status.ok()) {
            return status;
        }
        detail::Slice slice;
        slice.index = frame.frame_index();
        slice.presentation_time = std::chrono::microseconds(frame.presentation_time_us());
        slice.generate_time = Time(std::chrono::microseconds(frame.generate_time_us()));
        slice.offset_bytes = frame.data_offset_bytes();
        slice.frame_bytes = frame.data_size_bytes();
        slice.crc32c = frame.crc32c();
        slice.data = frame.mutable_data();
        const auto size = static_cast<std::int64_t>(slice.data->size());
        const auto outcome = assembler_.add(slice, *format_, *slot_);
        frame_ = frame.frame_index();
        count([&](PullerStatistics& statistics) { statistics.bytes_received += size; });
        switch (outcome) {
            case detail::FrameAssembler::Outcome::kPartial: return {};
            case detail::FrameAssembler::Outcome::kWhole:
                ring_->publish(std::exchange(slot_, nullptr));
                ++frame_;
                return {};
            case detail::FrameAssembler::Outcome::kDamaged:
                count([](PullerStatistics& statistics) { ++statistics.damaged; });
                return Status::of(Code::kUnavailable, "",
                                  "frame " + std::to_string(frame_) + " arrived damaged: its CRC-32C is wrong");
            case detail::FrameAssembler::Outcome::kProtocol: break;
        }
        return protocol_error("frame " + std::to_string(frame_) + ": a slice that does not fit");
    }

    /// Waits until there is a slot to fill; the generation is kept alive meanwhile.
    Status make_room() {
        if (slot_ == nullptr && !wants_all()) {
            slot_ = ring_->slot_at_once();
        }
        while (slot_ == nullptr) {
            slot_ = ring_->wait_for_slot(kRenewal);
            if (ring_->is_stopped()) {
                return stopped();
            }
            if (slot_ == nullptr) {
                renew_lease();
            }
        }
        return {};
    }

    void renew_lease() {
        {
            const std::lock_guard<std::mutex> lock(contexts_mutex_);
            renewal_.emplace();
            transport_->prepare(*renewal_);
            renewal_->set_deadline(std::chrono::system_clock::now() + kRenewal);
        }
        if (!ring_->is_stopped()) {
            v1::GetGenerationRequest request;
            request.set_generation_id(generation_id_);
            v1::GetGenerationResponse response;
            // What goes wrong shows when the next frame is pulled.
            (void)transport_->video().GetGeneration(&*renewal_, request, &response);
        }
        const std::lock_guard<std::mutex> lock(contexts_mutex_);
        renewal_.reset();
    }

    /// Sets everything up to go on after a failure. False where it is final.
    bool recover(const Status& failure) {
        Lane& due = *lanes_in_order_[0];
        const std::int64_t window_end = due.end;
        abandon_calls();
        if (ring_->is_stopped()) {
            return false;
        }
        if (failure.reason == "FRAME_EVICTED" && options_.skip_missing_frames) {
            const std::optional<std::int64_t> first = number_in(failure, "firstAvailableFrameIndex");
            return first && skip_to(*first);
        }
        if (failure.reason == "FRAME_DAMAGED") {
            const std::int64_t damaged = number_in(failure, "frameIndex").value_or(frame_);
            if (damaged > frame_ && damaged < window_end) {
                // Up to the damaged one they can be had.
                due.begin = frame_;
                due.end = damaged;
                return true;
            }
            return options_.skip_missing_frames && skip_to(frame_ + 1);
        }
        Status retried = failure;
        if (retried.code == Code::kDeadlineExceeded && retried.reason.empty()) {
            retried.code = Code::kUnavailable;  // the network is silent; this call asked for an answer in time
        }
        milliseconds pause{};
        if (!attempts_.failed(retried, pause)) {
            return false;
        }
        count([](PullerStatistics& statistics) { ++statistics.reconnects; });
        return !ring_->wait_for_stop(pause);
    }

    /// Goes on with a later frame. False where that one is no later.
    bool skip_to(std::int64_t frame) {
        if (frame <= frame_) {
            return false;
        }
        assembler_.drop();
        count([&](PullerStatistics& statistics) { statistics.frames_lost += frame - frame_; });
        frame_ = frame;
        return true;
    }

    template <class Change>
    void count(Change change) {
        ring_->count(change);
    }

    const std::shared_ptr<detail::Transport> transport_;
    const std::string generation_id_;
    const PullerOptions options_;

    // The thread's own.
    grpc::CompletionQueue calls_;
    std::array<Lane, 2> lanes_;
    std::array<Lane*, 2> lanes_in_order_ = {&lanes_[0], &lanes_[1]};  // the one that is due first
    detail::FrameAssembler assembler_;
    detail::Attempts attempts_;
    std::optional<VideoFormat> format_;
    detail::FrameSlot* slot_ = nullptr;  // the frame that is being put together
    std::int64_t frame_;                 // the next one to come, or to go on with

    std::mutex contexts_mutex_;  // of the lanes' contexts and the renewal's, which stop() cancels
    std::optional<grpc::ClientContext> renewal_;

    const detail::Transport::Hook hook_;
    std::thread thread_;
};

FramePuller::FramePuller(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FramePuller::FramePuller(FramePuller&&) noexcept = default;
FramePuller& FramePuller::operator=(FramePuller&&) noexcept = default;
FramePuller::~FramePuller() = default;

Result<FramePuller> FramePuller::start(const Client& client, const std::string& generation_id,
                                       const PullerOptions& options) {
    std::vector<Violation> violations;
    check_range(violations, "ring_frames", options.ring_frames, 2, 64);
    check_range(violations, "held_frames", options.held_frames, 1, 256);
    check_range<std::int64_t>(violations, "max_message_bytes", options.max_message_bytes, 64 << 10, 48 << 20);
    if (options.start_frame < 0) {
        violations.push_back({"start_frame", "must not be negative"});
    }
    if (!violations.empty()) {
        return Status::invalid(std::move(violations));
    }
    return FramePuller(std::make_unique<Impl>(client.transport_, generation_id, options));
}

Result<Frame> FramePuller::next(std::chrono::milliseconds timeout) { return impl_->ring_->next(timeout); }
Frame FramePuller::latest(std::chrono::microseconds media_time) { return impl_->ring_->latest(&media_time); }
Frame FramePuller::latest() { return impl_->ring_->latest(nullptr); }
bool FramePuller::is_finished() const { return impl_->ring_->is_finished(); }
Status FramePuller::status() const { return impl_->ring_->status(); }
PullerStatistics FramePuller::statistics() const { return impl_->ring_->statistics(); }
void FramePuller::stop() { impl_->stop(stopped()); }

}  // namespace vinf

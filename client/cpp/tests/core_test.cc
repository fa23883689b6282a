// The parts that know no network: checksum, assembler, playback clock, ring.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "count_allocations.h"
#include "crc32c.h"
#include "frame_assembler.h"
#include "frame_ring.h"
#include "playback_clock.h"

namespace {

using namespace std::chrono_literals;
using vinf::Code;
using vinf::Frame;
using vinf::Result;
using vinf::Status;
using vinf::VideoFormat;
using vinf::detail::crc32c;
using vinf::detail::crc32c_portable;
using vinf::detail::FrameAssembler;
using vinf::detail::FrameRing;
using vinf::detail::FrameSlot;
using vinf::detail::Micros;
using vinf::detail::PlaybackClock;
using vinf::detail::Slice;

constexpr Micros kFrame{40'000};  // 25 frames a second

VideoFormat video() {
    VideoFormat format;
    format.frame_rate = {25, 1};
    format.frame_count = 100'000;
    return format;
}

std::shared_ptr<FrameRing> ring_of(int ring_frames, int held_frames = 2) {
    return std::make_shared<FrameRing>(FrameRing::Shape{ring_frames, held_frames, 250ms});
}

void fill(FrameSlot& slot, std::int64_t index) {
    slot.index = index;
    slot.presentation_time = index * kFrame;
    slot.generate_time = std::chrono::system_clock::now();
    slot.format = video();
    slot.data.assign(1000, static_cast<char>(index));
}

void put(FrameRing& ring, std::int64_t index) {
    FrameSlot* slot = ring.wait_for_slot(0ms);
    CHECK(slot != nullptr);
    fill(*slot, index);
    ring.publish(slot);
}

std::int64_t tick(FrameRing& ring, Micros at) {
    const Frame frame = ring.latest(&at);
    return frame ? frame.index() : -1;
}

// Checksum.

void crc_of_the_standard_vectors() {
    CHECK(crc32c(0, "", 0) == 0);
    CHECK(crc32c(0, "123456789", 9) == 0xe3069283);
    const std::string zeros(32, '\0');
    CHECK(crc32c(0, zeros.data(), 32) == 0x8a9136aa);
    CHECK(crc32c_portable(0, "123456789", 9) == 0xe3069283);
}

void crc_by_instruction_and_by_table_agree() {
    std::string bytes(200'003, '\0');
    std::uint32_t state = 1;
    for (char& byte : bytes) {
        state = state * 1664525 + 1013904223;
        byte = static_cast<char>(state >> 24);
    }
    for (std::size_t begin : {0u, 1u, 7u}) {
        for (std::size_t size : {0u, 1u, 8u, 9u, 100u, 16'383u, 16'384u, 16'385u, 16'407u, 199'990u}) {
            const char* data = bytes.data() + begin;
            CHECK(crc32c(0, data, size) == crc32c_portable(0, data, size));
            const std::size_t half = size / 3;
            CHECK(crc32c(crc32c(0, data, half), data + half, size - half) == crc32c(0, data, size));
        }
    }
}

// Assembler.

Slice slice_of(std::string& data, std::int64_t offset, const std::string& whole, bool is_last) {
    Slice slice;
    slice.index = 5;
    slice.presentation_time = 7us;
    slice.offset_bytes = offset;
    slice.frame_bytes = static_cast<std::int64_t>(whole.size());
    slice.crc32c = is_last ? crc32c(0, whole.data(), whole.size()) : -1;
    slice.data = &data;
    return slice;
}

void a_whole_frame_is_swapped_in() {
    FrameAssembler assembler;
    FrameSlot slot;
    std::string data(5000, 'x');
    const std::string whole = data;
    const char* const bytes = data.data();
    CHECK(assembler.add(slice_of(data, 0, whole, true), video(), slot) == FrameAssembler::Outcome::kWhole);
    CHECK(slot.data.data() == bytes);
    CHECK(slot.index == 5 && slot.presentation_time == 7us);
}

void slices_are_joined() {
    FrameAssembler assembler;
    FrameSlot slot;
    const std::string whole = "abcdefghij";
    for (const std::int64_t begin : {0, 4, 8}) {
        std::string data = whole.substr(static_cast<std::size_t>(begin), 4);
        const auto outcome = assembler.add(slice_of(data, begin, whole, begin == 8), video(), slot);
        CHECK(outcome == (begin == 8 ? FrameAssembler::Outcome::kWhole : FrameAssembler::Outcome::kPartial));
        CHECK(assembler.filled_bytes() == (begin == 8 ? 0 : begin + 4));
    }
    CHECK(slot.data == whole);
}

void broken_slices_are_found() {
    const std::string whole = "abcdefghij";
    FrameSlot slot;
    const auto outcome_of = [&](std::int64_t offset, const std::string& text, std::int64_t announced) {
        FrameAssembler assembler;
        std::string first = whole.substr(0, 4);
        CHECK(assembler.add(slice_of(first, 0, whole, false), video(), slot) == FrameAssembler::Outcome::kPartial);
        std::string data = text;
        Slice slice = slice_of(data, offset, whole, true);
        slice.frame_bytes = announced;
        return assembler.add(slice, video(), slot);
    };
    CHECK(outcome_of(4, "efghij", 10) == FrameAssembler::Outcome::kWhole);
    CHECK(outcome_of(4, "efghiX", 10) == FrameAssembler::Outcome::kDamaged);
    CHECK(outcome_of(5, "fghij", 10) == FrameAssembler::Outcome::kProtocol);
    CHECK(outcome_of(4, "efghijk", 10) == FrameAssembler::Outcome::kProtocol);
    CHECK(outcome_of(4, "", 10) == FrameAssembler::Outcome::kProtocol);
    CHECK(outcome_of(4, "efghij", std::int64_t{1} << 40) == FrameAssembler::Outcome::kProtocol);
    VideoFormat fixed = video();
    fixed.frame_size_bytes = 11;
    FrameAssembler assembler;
    std::string data = whole;
    CHECK(assembler.add(slice_of(data, 0, whole, true), fixed, slot) == FrameAssembler::Outcome::kProtocol);
}

// Clock.

void the_clock_starts_with_the_first_frame() {
    PlaybackClock clock(250ms);
    bool rebased = false;
    CHECK(!clock.due(5s));
    CHECK(clock.due(5s, 80ms, kFrame, rebased) == 80ms);
    CHECK(clock.due(5100ms, 120ms, kFrame, rebased) == 180ms);
    CHECK(!rebased);
}

void the_clock_is_set_anew_after_a_gap_either_way() {
    PlaybackClock clock(250ms);
    bool rebased = false;
    (void)clock.due(0s, 0s, kFrame, rebased);
    CHECK(clock.due(3s, 40ms, kFrame, rebased) == 40ms);  // the network was away
    CHECK(rebased);
    rebased = false;
    CHECK(clock.due(3040ms, 10s, kFrame, rebased) == 10s);  // frames are missing
    CHECK(rebased);
    rebased = false;
    CHECK(clock.due(0s, 10s, kFrame, rebased) == 10s);  // the engine began to count anew
    CHECK(rebased);
}

void frames_of_a_slow_video_are_no_gap() {
    PlaybackClock clock(250ms);
    bool rebased = false;
    (void)clock.due(0s, 0s, 1s, rebased);
    CHECK(clock.due(10ms, 1s, 1s, rebased) == 10ms);
    CHECK(!rebased);
}

// Ring.

void the_recorder_gets_every_frame_in_order() {
    const auto ring = ring_of(3);
    constexpr std::int64_t kCount = 2000;
    std::thread network([&] {
        for (std::int64_t index = 0; index < kCount; ++index) {
            FrameSlot* slot = ring->wait_for_slot(10s);
            CHECK(slot != nullptr);
            fill(*slot, index);
            ring->publish(slot);
        }
        ring->finish({});
    });
    for (std::int64_t index = 0; index < kCount; ++index) {
        Result<Frame> frame = ring->next(10s);
        CHECK(frame.ok() && *frame);
        CHECK(frame->index() == index);
        CHECK(frame->data()[frame->size() - 1] == static_cast<std::uint8_t>(index));
    }
    Result<Frame> end = ring->next(10s);
    CHECK(end.ok() && !*end);
    CHECK(ring->is_finished());
    network.join();
    CHECK(ring->statistics().frames_shown == kCount);
    CHECK(ring->statistics().frames_dropped == 0);
}

void frames_pass_without_an_allocation() {
    const auto ring = ring_of(4);
    const auto round = [&](std::int64_t index) {
        put(*ring, index);
        Result<Frame> frame = ring->next(0ms);
        Frame copy = *frame;
        put(*ring, index + 1);
        copy = ring->latest(nullptr);
        CHECK(copy.index() == index + 1);
        put(*ring, index + 2);
        CHECK(tick(*ring, index * kFrame) >= index);
        put(*ring, index + 3);
        FrameSlot* slot = ring->slot_at_once();
        CHECK(slot != nullptr);
        fill(*slot, index + 4);
        ring->publish(slot);
        CHECK(ring->latest(nullptr).index() == index + 4);
    };
    for (std::int64_t index = 0; index < 50; index += 5) {
        round(index);  // every slot gets its buffer
    }
    const std::int64_t before = allocation_count();
    for (std::int64_t index = 50; index < 5000; index += 5) {
        round(index);
    }
    CHECK(allocation_count() == before);
}

void the_newest_frame_wins_and_the_last_is_repeated() {
    const auto ring = ring_of(3);
    CHECK(!ring->latest(nullptr));
    for (std::int64_t index = 0; index < 3; ++index) {
        put(*ring, index);
    }
    CHECK(ring->latest(nullptr).index() == 2);
    CHECK(ring->latest(nullptr).index() == 2);
    const vinf::PullerStatistics statistics = ring->statistics();
    CHECK(statistics.frames_shown == 1 && statistics.frames_dropped == 2 && statistics.repeats == 1);
}

void playback_follows_the_clock() {
    const auto ring = ring_of(4);
    for (std::int64_t index = 0; index < 4; ++index) {
        put(*ring, index);
    }
    CHECK(tick(*ring, 1s) == 0);            // the clock starts here
    CHECK(tick(*ring, 1s + 20ms) == 0);     // the next one is not due
    CHECK(tick(*ring, 1s + 40ms) == 1);
    CHECK(tick(*ring, 1s + 125ms) == 3);    // 2 is late and is dropped
    CHECK(tick(*ring, 1s + 150ms) == 3);
    vinf::PullerStatistics statistics = ring->statistics();
    CHECK(statistics.frames_shown == 3 && statistics.frames_dropped == 1 && statistics.repeats == 0);
    CHECK(tick(*ring, 1s + 170ms) == 3);    // 4 is due and not there
    CHECK(ring->statistics().repeats == 1);
    put(*ring, 4);
    CHECK(tick(*ring, 1s + 180ms) == 4);
    CHECK(ring->statistics().rebases == 0);
}

void after_a_gap_playback_goes_on_at_its_own_speed() {
    const auto ring = ring_of(4);
    put(*ring, 0);
    CHECK(tick(*ring, 0s) == 0);
    CHECK(tick(*ring, 5s) == 0);
    for (std::int64_t index = 1; index < 5; ++index) {
        put(*ring, index);
    }
    CHECK(tick(*ring, 5s) == 1);
    CHECK(tick(*ring, 5s + 40ms) == 2);
    const vinf::PullerStatistics statistics = ring->statistics();
    CHECK(statistics.rebases == 1 && statistics.frames_dropped == 0);
}

void a_frame_that_stays_away_is_a_stall() {
    const auto ring = std::make_shared<FrameRing>(FrameRing::Shape{2, 2, 0ms});
    put(*ring, 0);
    CHECK(ring->latest(nullptr).index() == 0);
    while (ring->statistics().stalls == 0) {
        CHECK(ring->latest(nullptr).index() == 0);
    }
    put(*ring, 1);
    CHECK(ring->latest(nullptr).index() == 1);
    CHECK(ring->statistics().stalls == 1);
    ring->finish({});
    CHECK(ring->latest(nullptr).index() == 1);
    CHECK(ring->statistics().stalls == 1);  // the end is none
}

void a_full_ring_drops_the_oldest_for_the_newest() {
    const auto ring = ring_of(2);
    for (std::int64_t index = 0; index < 5; ++index) {
        FrameSlot* slot = ring->slot_at_once();
        CHECK(slot != nullptr);
        fill(*slot, index);
        ring->publish(slot);
    }
    CHECK(ring->next(0ms)->index() == 3);
    CHECK(ring->statistics().frames_dropped == 3);
}

void a_full_ring_makes_the_network_wait() {
    const auto ring = ring_of(2);
    put(*ring, 0);
    put(*ring, 1);
    CHECK(ring->wait_for_slot(1ms) == nullptr);
    CHECK(ring->next(0ms)->index() == 0);
    CHECK(ring->wait_for_slot(0ms) != nullptr);
}

void handles_keep_their_bytes() {
    const auto ring = ring_of(2, 1);
    std::vector<Frame> held;
    for (std::int64_t index = 0;; ++index) {
        FrameSlot* slot = ring->wait_for_slot(1ms);
        if (slot == nullptr) {
            break;
        }
        fill(*slot, index);
        ring->publish(slot);
        held.push_back(*ring->next(0ms));
    }
    CHECK(held.size() == 5);  // two, one, the one shown and the one being filled
    for (const Frame& frame : held) {
        CHECK(frame.data()[0] == static_cast<std::uint8_t>(frame.index()));
    }
    std::thread other([frame = std::move(held.front())]() mutable { frame = Frame(); });
    CHECK(ring->wait_for_slot(10s) != nullptr);  // its end is noticed
    other.join();
}

void a_handle_outlives_the_ring() {
    auto ring = ring_of(2);
    put(*ring, 7);
    Frame frame = *ring->next(0ms);
    put(*ring, 8);
    const Frame last = ring->latest(nullptr);
    ring.reset();
    CHECK(frame.data()[999] == 7);
    const Frame copy = frame;
    frame = last;
    CHECK(copy.index() == 7 && frame.index() == 8);
}

void the_end_comes_after_the_frames_before_it() {
    const auto ring = ring_of(2);
    put(*ring, 0);
    ring->finish(Status::of(Code::kInternal, "WORKER_LOST", "gone"));
    CHECK(!ring->is_finished());
    CHECK(ring->next(0ms)->index() == 0);
    CHECK(ring->next(0ms).status().reason == "WORKER_LOST");
    CHECK(ring->is_finished());
}

void who_waits_is_woken_by_a_stop() {
    const auto ring = ring_of(2);
    std::thread stopper([&] { ring->stop(Status::of(Code::kCancelled, "STOPPED", "")); });
    CHECK(ring->next(10s).status().code == Code::kCancelled);
    CHECK(ring->wait_for_slot(10s) == nullptr);
    CHECK(ring->wait_for_stop(10s));
    stopper.join();
    CHECK(ring_of(2)->next(0ms).status().reason == "NO_FRAME_YET");
}

void a_render_tick_never_waits_for_the_network() {
    // One side at full speed, the other as well: whatever the interleaving, frames only go forward.
    const auto ring = ring_of(3);
    std::atomic<bool> done{false};
    std::thread network([&] {
        for (std::int64_t index = 0; index < 20'000; ++index) {
            FrameSlot* slot = ring->slot_at_once();
            CHECK(slot != nullptr);
            fill(*slot, index);
            ring->publish(slot);
        }
        done = true;
    });
    std::int64_t newest = -1;
    while (!done) {
        const Frame frame = ring->latest(nullptr);
        if (frame) {
            CHECK(frame.index() >= newest);
            CHECK(frame.data()[500] == static_cast<std::uint8_t>(frame.index()));
            newest = frame.index();
        }
    }
    network.join();
    CHECK(ring->latest(nullptr).index() == 19'999);
}

}  // namespace

void run_access_tests();

int main() {
    RUN(crc_of_the_standard_vectors);
    RUN(crc_by_instruction_and_by_table_agree);
    RUN(a_whole_frame_is_swapped_in);
    RUN(slices_are_joined);
    RUN(broken_slices_are_found);
    RUN(the_clock_starts_with_the_first_frame);
    RUN(the_clock_is_set_anew_after_a_gap_either_way);
    RUN(frames_of_a_slow_video_are_no_gap);
    RUN(the_recorder_gets_every_frame_in_order);
    RUN(frames_pass_without_an_allocation);
    RUN(the_newest_frame_wins_and_the_last_is_repeated);
    RUN(playback_follows_the_clock);
    RUN(after_a_gap_playback_goes_on_at_its_own_speed);
    RUN(a_frame_that_stays_away_is_a_stall);
    RUN(a_full_ring_drops_the_oldest_for_the_newest);
    RUN(a_full_ring_makes_the_network_wait);
    RUN(handles_keep_their_bytes);
    RUN(a_handle_outlives_the_ring);
    RUN(the_end_comes_after_the_frames_before_it);
    RUN(who_waits_is_woken_by_a_stop);
    RUN(a_render_tick_never_waits_for_the_network);
    run_access_tests();
}

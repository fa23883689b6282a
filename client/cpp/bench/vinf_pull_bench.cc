// How fast frames come, and how old they are when they are shown.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>
#include <vinf/vinf.h>

#include "../examples/arguments.h"
#include "vinf/v1/video_generation_service.grpc.pb.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kHelp =
    "vinf_pull_bench - frames a second, and their age\n"
    "\n"
    "  vinf_pull_bench --mode next --server ADDRESS --generation ID\n"
    "\n"
    "  --mode next     FramePuller::next as fast as it goes\n"
    "  --mode stream   a bare gRPC stream of the same frames: read and forget\n"
    "  --mode latest   a render loop of --fps ticks a second (default 12) on the newest frame\n"
    "  --mode late     the same loop on a bare stream, which cannot skip\n"
    "  --pixels N      1 RGB24 (default), 2 RGBA8, 3 BGRA8, 4 NV12\n"
    "  --ring N        frames in the ring (default 4)\n"
    "  --max-message N bytes in a reply, or in a message of the stream (default: the server's for the stream)\n"
    "  --json          one line for programs\n";

struct Measurement {
    std::int64_t frames = 0;
    std::int64_t bytes = 0;
    double seconds = 0;
    std::vector<double> ages_ms;
    std::string failure;
};

double age_ms(std::chrono::system_clock::time_point made) {
    return std::chrono::duration<double, std::milli>(std::chrono::system_clock::now() - made).count();
}

double quantile(std::vector<double> values, double share) {
    if (values.empty()) {
        return 0;
    }
    std::sort(values.begin(), values.end());
    return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

Measurement pull(const vinf::Client& client, const std::string& id, vinf::PullerOptions options, std::int64_t fps) {
    Measurement measured;
    const bool is_live = fps > 0;
    options.delivery = is_live ? vinf::Delivery::kLatest : vinf::Delivery::kAll;
    vinf::Result<vinf::FramePuller> puller = vinf::FramePuller::start(client, id, options);
    if (!puller.ok()) {
        measured.failure = puller.status().to_string();
        return measured;
    }
    const Clock::time_point begin = Clock::now();
    std::int64_t last = -1;
    for (std::int64_t tick = 0;; ++tick) {
        vinf::Frame frame;
        if (is_live) {
            std::this_thread::sleep_until(begin + tick * std::chrono::microseconds(1'000'000 / fps));
            frame = puller->latest();
            if (puller->is_finished() && (!frame || frame.index() == last)) {
                measured.failure = puller->status().ok() ? "" : puller->status().to_string();
                break;
            }
            if (!frame || frame.index() == last) {
                continue;
            }
        } else {
            vinf::Result<vinf::Frame> next = puller->next();
            if (!next.ok() || !*next) {
                measured.failure = next.ok() ? "" : next.status().to_string();
                break;
            }
            frame = *std::move(next);
        }
        last = frame.index();
        ++measured.frames;
        measured.bytes += static_cast<std::int64_t>(frame.size());
        measured.ages_ms.push_back(age_ms(frame.generate_time()));
    }
    measured.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    return measured;
}

Measurement stream(const std::string& address, const std::string& id, const vinf::PullerOptions& options,
                   std::int64_t max_message, std::int64_t fps) {
    Measurement measured;
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    const auto stub = vinf::v1::VideoGenerationService::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    vinf::v1::StreamFramesRequest request;
    request.set_generation_id(id);
    request.set_max_data_bytes(max_message);
    request.mutable_output_format()->set_pixel_format(static_cast<vinf::v1::PixelFormat>(options.format.pixel_format));
    grpc::ClientContext context;
    const Clock::time_point begin = Clock::now();
    const auto reader = stub->StreamFrames(&context, request);
    vinf::v1::StreamFramesResponse response;
    while (reader->Read(&response)) {
        const vinf::v1::Frame& frame = response.frame();
        measured.bytes += static_cast<std::int64_t>(frame.data().size());
        if (response.has_frame() &&
            frame.data_offset_bytes() + static_cast<std::int64_t>(frame.data().size()) == frame.data_size_bytes()) {
            ++measured.frames;
            if (fps > 0) {
                std::this_thread::sleep_until(begin + measured.frames * std::chrono::microseconds(1'000'000 / fps));
            }
            measured.ages_ms.push_back(age_ms(vinf::Time(std::chrono::microseconds(frame.generate_time_us()))));
        }
    }
    const grpc::Status status = reader->Finish();
    measured.failure = status.ok() ? "" : status.error_message();
    measured.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    return measured;
}

}  // namespace

int main(int argc, char** argv) {
    Arguments arguments(argc, argv, kHelp);
    const std::string mode = arguments.text("--mode", "next");
    vinf::ClientOptions access;
    access.address = arguments.text("--server", "127.0.0.1:50051");
    const std::string id = arguments.text("--generation");
    vinf::PullerOptions options;
    options.format.pixel_format = static_cast<vinf::PixelFormat>(arguments.number("--pixels", 1));
    options.ring_frames = static_cast<int>(arguments.number("--ring", options.ring_frames));
    const std::int64_t max_message = arguments.number("--max-message", 0);
    if (max_message != 0) {
        options.max_message_bytes = max_message;
    }
    const std::int64_t fps = arguments.number("--fps", 12);
    const bool is_json = arguments.flag("--json");
    arguments.check_all_used();
    if (id.empty() || fps < 1 || (mode != "next" && mode != "stream" && mode != "latest" && mode != "late")) {
        arguments.fail("needs --generation, and --mode next, stream, latest or late");
    }

    const vinf::Result<vinf::Client> client = vinf::Client::open(access);
    if (!client.ok()) {
        arguments.fail(client.status().message);
    }
    const bool is_paced = mode == "latest" || mode == "late";
    const Measurement measured = mode == "next" || mode == "latest"
                                     ? pull(*client, id, options, is_paced ? fps : 0)
                                     : stream(access.address, id, options, max_message, is_paced ? fps : 0);
    if (!measured.failure.empty()) {
        std::fprintf(stderr, "vinf_pull_bench: %s\n", measured.failure.c_str());
        return 1;
    }
    const char* const format =
        is_json ? "{\"mode\": \"%s\", \"frames\": %lld, \"bytes\": %lld, \"seconds\": %.6f, \"frames_per_s\": %.3f, "
                  "\"age_ms_p50\": %.3f, \"age_ms_p95\": %.3f}\n"
                : "%s: %lld frames, %lld bytes in %.3f s: %.1f frames/s; age p50 %.1f ms, p95 %.1f ms\n";
    std::printf(format, mode.c_str(), static_cast<long long>(measured.frames), static_cast<long long>(measured.bytes),
                measured.seconds, static_cast<double>(measured.frames) / measured.seconds,
                quantile(measured.ages_ms, 0.5), quantile(measured.ages_ms, 0.95));
    return 0;
}

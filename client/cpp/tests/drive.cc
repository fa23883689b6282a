// The library, driven by tests/client_cpp: one command a run, plain lines out.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <future>
#include <iostream>
#include <iterator>
#include <string>
#include <thread>
#include <utility>
#include <vector>
#include <vinf/vinf.h>

#include "../examples/arguments.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kHelp =
    "drive next|latest|get|list|create|watch|cancel|delete|info|close --server ADDRESS [--generation ID] ...\n";

void print(const vinf::Status& status) {
    std::printf("status %s reason=%s\n", vinf::name_of(status.code), status.reason.c_str());
    std::printf("message %s\n", status.message.c_str());
    if (status.retry_after) {
        std::printf("retry_after_ms %lld\n", static_cast<long long>(status.retry_after->count()));
    }
    for (const vinf::Violation& violation : status.violations) {
        std::printf("violation %s: %s\n", violation.field.c_str(), violation.description.c_str());
    }
    for (const auto& entry : status.metadata) {
        std::printf("metadata %s=%s\n", entry.first.c_str(), entry.second.c_str());
    }
}

void print(const vinf::Generation& generation) {
    std::printf("generation %s %s seed=%lld frames=%lld\n", generation.id.c_str(), vinf::name_of(generation.state),
                static_cast<long long>(generation.spec.seed), static_cast<long long>(generation.spec.frame_count));
    const vinf::TemporalScope& scope = generation.spec.temporal_scope;
    std::printf("scope globals=%d noise=%d choice=%d\n", scope.global_frames, static_cast<int>(scope.initial_noise),
                static_cast<int>(scope.global_choice));
    std::printf("solved %d\n", static_cast<int>(generation.spec.solver));
    for (const vinf::ImageDigest& image : generation.spec.image_conditions) {
        std::printf("image %lld %s\n", static_cast<long long>(image.frame_index), image.sha256.c_str());
    }
}

void print(const vinf::PullerStatistics& s) {
    const std::pair<const char*, std::int64_t> values[] = {
        {"received", s.frames_received}, {"shown", s.frames_shown},   {"dropped", s.frames_dropped},
        {"skipped", s.frames_skipped},   {"lost", s.frames_lost},     {"repeats", s.repeats},
        {"stalls", s.stalls},            {"rebases", s.rebases},      {"reconnects", s.reconnects},
        {"damaged", s.damaged},          {"bytes", s.bytes_received},
    };
    for (const auto& value : values) {
        std::printf("stat %s %lld\n", value.first, static_cast<long long>(value.second));
    }
}

template <class Value>
int report(const vinf::Result<Value>& result) {
    print(result.status());
    if (result.ok()) {
        print(*result);
    }
    return 0;
}

template <class Enum>
Enum choice(Arguments& arguments, const char* name, std::int64_t otherwise) {
    return static_cast<Enum>(arguments.number(name, otherwise));
}

vinf::PullerOptions puller_options(Arguments& arguments) {
    vinf::PullerOptions options;
    options.delivery = choice<vinf::Delivery>(arguments, "--delivery", 1);
    options.format.encoding = choice<vinf::Encoding>(arguments, "--encoding", 1);
    options.format.pixel_format = choice<vinf::PixelFormat>(arguments, "--pixels", 1);
    options.format.row_order = choice<vinf::RowOrder>(arguments, "--rows", 1);
    options.format.row_alignment_bytes = static_cast<std::int32_t>(arguments.number("--align", 1));
    options.start_frame = arguments.number("--start", 0);
    options.ring_frames = static_cast<int>(arguments.number("--ring", 4));
    options.max_message_bytes = arguments.number("--max-message", options.max_message_bytes);
    options.skip_missing_frames = !arguments.flag("--no-skip");
    options.release_frames = arguments.flag("--release");
    options.resume_attempts = static_cast<int>(arguments.number("--attempts", 10));
    return options;
}

void wait_for_a_line(const char* word) {
    std::printf("%s\n", word);
    std::string line;
    std::getline(std::cin, line);
}

/// Every frame; its bytes go to --out. With --hold N it waits for a line on the standard input after N frames.
int next(vinf::FramePuller& puller, Arguments& arguments) {
    const std::string path = arguments.text("--out");
    std::FILE* out = path.empty() ? nullptr : std::fopen(path.c_str(), "wb");
    const std::int64_t hold = arguments.number("--hold", -1);
    arguments.check_all_used();
    std::int64_t count = 0;
    vinf::Status end;
    while (true) {
        if (count == hold) {
            wait_for_a_line("holding");
        }
        vinf::Result<vinf::Frame> frame = puller.next(std::chrono::seconds(100));
        if (!frame.ok() || !*frame) {
            end = frame.status();
            break;
        }
        ++count;
        const vinf::PlaneView plane = frame->plane(0);
        std::printf("frame %lld %zu %lld %lld %d\n", static_cast<long long>(frame->index()), frame->size(),
                    static_cast<long long>(frame->presentation_time().count()),
                    static_cast<long long>(plane.stride_bytes), plane.row_count);
        if (out != nullptr) {
            std::fwrite(frame->data(), 1, frame->size(), out);
        }
    }
    if (out != nullptr) {
        std::fclose(out);
    }
    print(end);
    return 0;
}

/// A render loop: --fps ticks a second until the video has ended, at --speed percent of real time. With --hold it waits
/// for a line before the first tick, with --linger for one after the end of the video.
int latest(vinf::FramePuller& puller, Arguments& arguments) {
    const std::chrono::microseconds period(1'000'000 / arguments.number("--fps", 60));
    const bool is_live = arguments.flag("--live");
    const std::int64_t ticks = arguments.number("--ticks", 1'000'000);
    if (arguments.flag("--hold")) {
        wait_for_a_line("holding");
    }
    arguments.check_all_used();
    const Clock::time_point begin = Clock::now();
    std::chrono::nanoseconds longest{0};
    vinf::Frame shown;
    for (std::int64_t tick = 0; tick < ticks && !puller.is_finished(); ++tick) {
        std::this_thread::sleep_until(begin + tick * period);
        const Clock::time_point before = Clock::now();
        vinf::Frame frame = is_live ? puller.latest()
                                    : puller.latest(std::chrono::duration_cast<std::chrono::microseconds>(before - begin));
        longest = std::max<std::chrono::nanoseconds>(longest, Clock::now() - before);
        if (frame && (!shown || frame.index() != shown.index())) {
            std::printf("show %lld at_us %lld\n", static_cast<long long>(frame.index()),
                        static_cast<long long>(std::chrono::duration_cast<std::chrono::microseconds>(before - begin).count()));
        }
        shown = std::move(frame);
    }
    std::printf("longest_us %lld\n", static_cast<long long>(longest.count() / 1000));
    print(puller.status());
    return 0;
}

/// Everything that waits is ended by a close from another thread; a handle stays valid.
int close_everything(const vinf::Client& client, const std::string& id) {
    vinf::Frame kept;
    vinf::Status pulled;
    vinf::Status watched;
    {
        vinf::Result<vinf::FramePuller> puller = vinf::FramePuller::start(client, id);
        vinf::Result<vinf::Frame> first = puller->next();
        if (!first.ok()) {
            print(first.status());
            return 1;
        }
        kept = *first;
        std::thread puller_thread([&] { pulled = puller->next(std::chrono::seconds(100)).status(); });
        std::promise<void> is_watching;
        std::thread watch_thread([&] {
            bool is_first = true;
            watched = client
                          .watch_generation(id,
                                            [&](const vinf::Update&) {
                                                if (std::exchange(is_first, false)) {
                                                    is_watching.set_value();
                                                }
                                                return true;
                                            })
                          .status();
        });
        is_watching.get_future().wait();
        client.close();
        puller_thread.join();
        watch_thread.join();
    }
    print(pulled);
    print(watched);
    print(client.get_generation(id).status());
    std::printf("kept %lld %zu\n", static_cast<long long>(kept.index()), kept.size());
    return 0;
}

int pull(const vinf::Client& client, const std::string& command, const std::string& id, Arguments& arguments) {
    vinf::Result<vinf::FramePuller> puller = vinf::FramePuller::start(client, id, puller_options(arguments));
    if (!puller.ok()) {
        print(puller.status());
        return 0;
    }
    const int code = command == "next" ? next(*puller, arguments) : latest(*puller, arguments);
    print(puller->statistics());
    return code;
}

int call(const vinf::Client& client, const std::string& command, const std::string& id, Arguments& arguments) {
    if (command == "create") {
        vinf::GenerationRequest request;
        request.prompt = arguments.text("--prompt");
        request.request_id = arguments.text("--request-id");
        if (const std::int64_t width = arguments.number("--width", -1); width != -1) {
            request.width = static_cast<std::int32_t>(width);
        }
        request.seed = arguments.number("--seed", 1);
        request.solver = choice<vinf::Solver>(arguments, "--solver", 0);
        request.detached = arguments.flag("--detached");
        if (const std::int64_t globals = arguments.number("--global-frames", -1); globals != -1) {
            vinf::TemporalScope scope;
            scope.global_frames = static_cast<std::int32_t>(globals);
            scope.initial_noise = choice<vinf::InitialNoise>(arguments, "--initial-noise", 1);
            scope.global_choice = choice<vinf::GlobalChoice>(arguments, "--global-choice", 1);
            request.temporal_scope = scope;
        }
        if (const std::string path = arguments.text("--image"); !path.empty()) {
            std::ifstream file(path, std::ios::binary);
            const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
            request.image_conditions.push_back({arguments.number("--image-frame", 0), bytes});
        }
        return report(client.create_generation(request, std::chrono::milliseconds(arguments.number("--patience-ms", 0))));
    }
    if (command == "get") {
        return report(client.get_generation(id));
    }
    if (command == "cancel") {
        return report(client.cancel_generation(id));
    }
    if (command == "delete") {
        print(client.delete_generation(id));
        return 0;
    }
    if (command == "list") {
        const vinf::Result<vinf::GenerationPage> page = client.list_generations();
        print(page.status());
        for (const vinf::Generation& generation : page.ok() ? page->generations : std::vector<vinf::Generation>()) {
            print(generation);
        }
        return 0;
    }
    if (command == "watch") {
        vinf::WatchOptions options;
        options.after_sequence = arguments.number("--after", 0);
        return report(client.watch_generation(
            id,
            [](const vinf::Update& update) {
                for (const vinf::GenerationEvent& event : update.events) {
                    std::printf("event %lld %s\n", static_cast<long long>(event.sequence), vinf::name_of(event.state));
                }
                return true;
            },
            options));
    }
    if (command == "close") {
        return close_everything(client, id);
    }
    if (command == "info") {
        const vinf::Result<vinf::ServerInfo> info = client.server_info();
        print(info.status());
        if (info.ok() && info->mesh) {
            const vinf::Mesh& mesh = *info->mesh;
            std::printf("mesh %d x %d x %d\n", mesh.clip_count, mesh.cfg_rank_count, mesh.context_rank_count);
        }
        if (info.ok() && !info->models.empty()) {
            const vinf::ModelInfo& model = info->models[0];
            std::printf("model %s %d\n", model.name.c_str(), model.default_width);
            std::printf("images %d %d\n", static_cast<int>(model.image_frames), model.max_image_count);
            std::printf("lengths in steps of %d, %d prompt(s)\n", model.frame_count_step, model.single_prompt ? 1 : 2);
            for (const vinf::Solver solver : model.solvers) {
                std::printf("solver %d\n", static_cast<int>(solver));
            }
        }
        return 0;
    }
    arguments.fail("'" + command + "' is not known");
}

}  // namespace

int main(int argc, char** argv) {
    std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // the tests read along
    const std::string command = argc > 1 ? argv[1] : "";
    Arguments arguments(argc - 1, argv + 1, kHelp);
    vinf::ClientOptions access;
    access.address = arguments.text("--server");
    access.token = arguments.text("--token");
    access.tls_ca = arguments.text("--tls-ca");
    access.connect_timeout = std::chrono::milliseconds(arguments.number("--connect-timeout-ms", 20'000));
    access.call_timeout = std::chrono::milliseconds(arguments.number("--call-timeout-ms", 60'000));
    const vinf::Result<vinf::Client> client = vinf::Client::open(access);
    if (!client.ok()) {
        print(client.status());
        return 0;
    }
    const std::string id = arguments.text("--generation");
    return command == "next" || command == "latest" ? pull(*client, command, id, arguments)
                                                    : call(*client, command, id, arguments);
}

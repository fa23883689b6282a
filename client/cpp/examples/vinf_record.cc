// Records a generation without a window: PNG files, raw frames or a .y4m file.
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vinf/vinf.h>

#include "arguments.h"

namespace {

constexpr const char* kHelp =
    "vinf_record - record a vinf generation while it is made\n"
    "\n"
    "  vinf_record --prompt \"a red ball over the sea\" --frames 48 --y4m ball.y4m\n"
    "  vinf_record --generation ID --png DIR\n"
    "  vinf_record --generation ID --raw - --pixels rgb24 | ffmpeg -f rawvideo -pix_fmt rgb24 -s 64x64 -r 24 -i - ball.mp4\n"
    "\n"
    "What:\n"
    "  --prompt TEXT        start a generation\n"
    "  --frames N  --width N  --height N  --steps N  --seed N   (default: the server's)\n"
    "  --generation ID      record one that somebody started\n"
    "Where to, one of:\n"
    "  --y4m FILE           YUV4MPEG2, for players and ffmpeg; - is the standard output\n"
    "  --png DIR            a file a frame\n"
    "  --raw FILE           the bytes of all frames, one after the other; - is the standard output\n"
    "  --pixels FORMAT      of --raw: rgb24 (default), rgba8, bgra8, nv12\n"
    "Connection:\n"
    "  --server HOST:PORT  --token-file FILE  --tls-ca FILE  --insecure\n"
    "\n"
    "Ctrl-C cancels the generation it started; twice ends at once. Exit code: 0, 1 for a failure, 2 for a wrong command line.\n";

volatile std::sig_atomic_t interrupted = 0;

extern "C" void interrupt(int number) {
    interrupted = 1;
    std::signal(number, SIG_DFL);  // the second one ends the program
}

int fail(const std::string& message) {
    std::fprintf(stderr, "vinf_record: %s\n", message.c_str());
    return 1;
}

/// Where frames go.
struct Output {
    std::string png_folder;
    std::FILE* raw = nullptr;
    vinf::Result<vinf::Y4mWriter> y4m = vinf::Status::of(vinf::Code::kNotFound, "", "");

    vinf::Status write(const vinf::Frame& frame) {
        if (y4m.ok()) {
            return y4m->write(frame);
        }
        std::FILE* file = raw;
        if (file == nullptr) {
            char name[32];
            std::snprintf(name, sizeof name, "frame_%06lld.png", static_cast<long long>(frame.index()));
            file = std::fopen((std::filesystem::path(png_folder) / name).string().c_str(), "wb");
        }
        const bool is_written = file != nullptr && std::fwrite(frame.data(), 1, frame.size(), file) == frame.size();
        const bool is_closed = file == nullptr || file == raw || std::fclose(file) == 0;
        return is_written && is_closed ? vinf::Status() : failure();
    }

    vinf::Status close() {
        if (y4m.ok()) {
            return y4m->close();
        }
        return raw == nullptr || std::fflush(raw) == 0 ? vinf::Status() : failure();
    }

    static vinf::Status failure() {
        return vinf::Status::of(vinf::Code::kInternal, "OUTPUT_FAILED", "a frame cannot be written; is the disk full?");
    }
};

template <class Number>
void set(std::optional<Number>& field, Arguments& arguments, const char* name) {
    if (!arguments.text(name).empty()) {
        field = static_cast<Number>(arguments.number(name, 0));
    }
}

vinf::PixelFormat pixel_format(const Arguments& arguments, const std::string& name) {
    if (name == "rgb24") return vinf::PixelFormat::kRgb24;
    if (name == "rgba8") return vinf::PixelFormat::kRgba8;
    if (name == "bgra8") return vinf::PixelFormat::kBgra8;
    if (name == "nv12") return vinf::PixelFormat::kNv12;
    arguments.fail("--pixels must be rgb24, rgba8, bgra8 or nv12, got '" + name + "'");
}

}  // namespace

int main(int argc, char** argv) {
    Arguments arguments(argc, argv, kHelp);
    vinf::ClientOptions access;
    access.address = arguments.text("--server");
    access.token_file = arguments.text("--token-file");
    access.tls_ca = arguments.text("--tls-ca");
    access.insecure = arguments.flag("--insecure");
    vinf::GenerationRequest request;
    request.prompt = arguments.text("--prompt");
    set(request.frame_count, arguments, "--frames");
    set(request.width, arguments, "--width");
    set(request.height, arguments, "--height");
    set(request.step_count, arguments, "--steps");
    set(request.seed, arguments, "--seed");
    std::string generation_id = arguments.text("--generation");
    const std::string y4m = arguments.text("--y4m");
    const std::string png = arguments.text("--png");
    const std::string raw = arguments.text("--raw");
    vinf::DownloadOptions options;
    options.format.pixel_format = pixel_format(arguments, arguments.text("--pixels", "rgb24"));
    arguments.check_all_used();
    if (request.prompt.empty() == generation_id.empty()) {
        arguments.fail("needs either --prompt or --generation");
    }
    if (!y4m.empty() + !png.empty() + !raw.empty() != 1) {
        arguments.fail("needs one of --y4m, --png and --raw");
    }

    Output output;
    if (!y4m.empty()) {
        options.format.pixel_format = vinf::PixelFormat::kNv12;
        output.y4m = vinf::Y4mWriter::create(y4m);
        if (!output.y4m.ok()) return fail(output.y4m.status().message);
    } else if (!png.empty()) {
        options.format = {};
        options.format.encoding = vinf::Encoding::kPng;
        output.png_folder = png;
        std::error_code error;
        std::filesystem::create_directories(png, error);
        if (error) return fail(png + " cannot be made: " + error.message());
    } else {
        output.raw = raw == "-" ? stdout : std::fopen(raw.c_str(), "wb");
        if (output.raw == nullptr) return fail(raw + " cannot be written");
    }

    const vinf::Result<vinf::Client> client = vinf::Client::open(access);
    if (!client.ok()) return fail(client.status().message);
    std::signal(SIGINT, interrupt);
    std::signal(SIGTERM, interrupt);
    const bool is_ours = generation_id.empty();
    if (is_ours) {
        const vinf::Result<vinf::Generation> generation = client->create_generation(request);
        if (!generation.ok()) return fail(generation.status().message);
        generation_id = generation->id;
        std::fprintf(stderr, "vinf_record: generation %s\n", generation_id.c_str());
    }
    vinf::PullerOptions pull;
    pull.format = options.format;
    pull.skip_missing_frames = false;
    vinf::Result<vinf::FramePuller> puller = vinf::FramePuller::start(*client, generation_id, pull);
    if (!puller.ok()) return fail(puller.status().message);
    while (interrupted == 0) {
        vinf::Result<vinf::Frame> frame = puller->next(std::chrono::milliseconds(200));
        if (!frame.ok() && frame.status().reason == "NO_FRAME_YET") {
            continue;  // looks for Ctrl-C
        }
        if (!frame.ok()) return fail(frame.status().message);
        if (!*frame) {
            const vinf::Status closed = output.close();
            if (!closed.ok()) return fail(closed.message);
            const vinf::PullerStatistics statistics = puller->statistics();
            std::fprintf(stderr, "vinf_record: %lld frames, %lld bytes, %lld reconnects\n",
                         static_cast<long long>(statistics.frames_shown),
                         static_cast<long long>(statistics.bytes_received),
                         static_cast<long long>(statistics.reconnects));
            return 0;
        }
        const vinf::Status written = output.write(*frame);
        if (!written.ok()) return fail(written.message);
    }
    if (is_ours) {
        (void)client->cancel_generation(generation_id);
    }
    return fail("interrupted");
}

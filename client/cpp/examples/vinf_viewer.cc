// Shows a generation while it is made.
#include <SDL.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <vinf/vinf.h>

#include "arguments.h"

namespace {

constexpr const char* kHelp =
    "vinf_viewer - show a vinf generation while it is made\n"
    "\n"
    "  vinf_viewer --generation ID\n"
    "  vinf_viewer --prompt \"a red ball over the sea\" --live\n"
    "\n"
    "  --generation ID     one that somebody started; or\n"
    "  --prompt TEXT       start one\n"
    "  --live              always the newest frame; otherwise every frame at the video's own speed\n"
    "  --scale N           pixels of the window for one of the video (default 2)\n"
    "  --close             leave at the end; otherwise the last frame stays until the window is closed\n"
    "  --server HOST:PORT  --token-file FILE  --tls-ca FILE  --insecure\n";

int fail(const std::string& message) {
    std::fprintf(stderr, "vinf_viewer: %s\n", message.c_str());
    return 1;
}

/// A window with one picture in it.
class Screen {
public:
    ~Screen() {
        SDL_DestroyTexture(texture_);
        SDL_DestroyRenderer(renderer_);
        SDL_DestroyWindow(window_);
        SDL_Quit();
    }

    /// Shows a BGRA8 frame: its upload is one copy.
    bool show(const vinf::Frame& frame, int scale) {
        const vinf::VideoFormat& format = frame.format();
        if (window_ == nullptr) {
            window_ = SDL_CreateWindow("vinf", 0, 0, format.width * scale, format.height * scale, SDL_WINDOW_SHOWN);
            renderer_ = window_ == nullptr ? nullptr : SDL_CreateRenderer(window_, -1, 0);
            texture_ = renderer_ == nullptr ? nullptr
                                            : SDL_CreateTexture(renderer_, SDL_PIXELFORMAT_BGRA32,
                                                                SDL_TEXTUREACCESS_STREAMING, format.width, format.height);
        }
        const vinf::PlaneView plane = frame.plane(0);
        if (texture_ == nullptr ||
            SDL_UpdateTexture(texture_, nullptr, plane.data, static_cast<int>(plane.stride_bytes)) != 0) {
            return false;
        }
        return present();
    }

    /// Draws again what was shown last.
    bool present() {
        if (texture_ == nullptr) {
            return true;
        }
        const bool is_drawn = SDL_RenderCopy(renderer_, texture_, nullptr, nullptr) == 0;
        SDL_RenderPresent(renderer_);
        return is_drawn;
    }

private:
    SDL_Window* window_ = nullptr;
    SDL_Renderer* renderer_ = nullptr;
    SDL_Texture* texture_ = nullptr;
};

bool wants_to_leave() {
    SDL_Event event;
    while (SDL_PollEvent(&event) != 0) {
        if (event.type == SDL_QUIT || (event.type == SDL_KEYDOWN && event.key.keysym.sym == SDLK_ESCAPE)) {
            return true;
        }
    }
    return false;
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
    std::string generation_id = arguments.text("--generation");
    const bool is_live = arguments.flag("--live");
    const bool leaves = arguments.flag("--close");
    const auto scale = static_cast<int>(arguments.number("--scale", 2));
    arguments.check_all_used();
    if (request.prompt.empty() == generation_id.empty()) {
        arguments.fail("needs either --prompt or --generation");
    }
    if (scale < 1 || scale > 16) {
        arguments.fail("--scale must be in [1, 16]");
    }

    const vinf::Result<vinf::Client> client = vinf::Client::open(access);
    if (!client.ok()) return fail(client.status().message);
    if (generation_id.empty()) {
        const vinf::Result<vinf::Generation> generation = client->create_generation(request);
        if (!generation.ok()) return fail(generation.status().message);
        generation_id = generation->id;
    }
    vinf::PullerOptions options;
    options.delivery = is_live ? vinf::Delivery::kLatest : vinf::Delivery::kAll;
    options.format.pixel_format = vinf::PixelFormat::kBgra8;
    vinf::Result<vinf::FramePuller> puller = vinf::FramePuller::start(*client, generation_id, options);
    if (!puller.ok()) return fail(puller.status().message);
    if (SDL_Init(SDL_INIT_VIDEO) != 0) return fail(SDL_GetError());

    Screen screen;
    const auto begin = std::chrono::steady_clock::now();
    bool has_ended = false;
    for (std::int64_t shown = -1; !wants_to_leave();) {
        const auto media_time =
            std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin);
        const vinf::Frame frame = is_live ? puller->latest() : puller->latest(media_time);
        const bool is_new = frame && frame.index() != shown;
        if (is_new ? !screen.show(frame, scale) : !screen.present()) {
            return fail(SDL_GetError());
        }
        if (is_new) {
            shown = frame.index();
            std::printf("frame %lld\n", static_cast<long long>(shown));
            std::fflush(stdout);
        }
        if (puller->is_finished() && !has_ended) {
            has_ended = true;
            if (!puller->status().ok()) return fail(puller->status().message);
            std::printf("end\n");
            std::fflush(stdout);
            if (leaves) {
                break;
            }
        }
        SDL_Delay(4);  // a display without vertical sync would be drawn as fast as it goes
    }
    return 0;
}

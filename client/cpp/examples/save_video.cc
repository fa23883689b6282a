// Saves a video as it is made:  save_video "a red ball bouncing over the sea" ball.y4m
#include <cstdio>
#include <vinf/vinf.h>

static int fail(const vinf::Status& status) {
    std::fprintf(stderr, "save_video: %s\n", status.message.c_str());
    return 1;
}

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: save_video PROMPT FILE.y4m\n");
        return 2;
    }
    auto client = vinf::Client::open();  // $VINF_SERVER, $VINF_TOKEN
    if (!client.ok()) return fail(client.status());

    auto file = vinf::Y4mWriter::create(argv[2]);
    if (!file.ok()) return fail(file.status());

    vinf::GenerationRequest request;
    request.prompt = argv[1];
    auto generation = client->create_generation(request);
    if (!generation.ok()) return fail(generation.status());

    vinf::DownloadOptions options;
    options.format.pixel_format = vinf::PixelFormat::kNv12;  // what video files are made of
    vinf::Status written;
    auto end = client->download(generation->id, [&](const vinf::Frame& frame) {
        std::printf("\rframe %lld of %lld", static_cast<long long>(frame.index() + 1),
                    static_cast<long long>(frame.format().frame_count));
        return (written = file->write(frame)).ok();
    }, options);
    std::printf("\n");
    if (written.ok()) written = file->close();
    if (!end.ok()) return fail(end.status());
    return written.ok() ? 0 : fail(written);
}

/// @file
/// The simplest file that video players and ffmpeg read.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "vinf/frame.h"
#include "vinf/status.h"

namespace vinf {

/// Writes raw NV12 frames, top row first, as YUV4MPEG2 (.y4m, 4:2:0, BT.709 in limited range). Not thread-safe.
class Y4mWriter {
public:
    /// Creates the file, or replaces it; "-" is the standard output.
    static Result<Y4mWriter> create(const std::string& path);

    Y4mWriter(Y4mWriter&& other) noexcept;
    Y4mWriter& operator=(Y4mWriter&& other) noexcept;
    ~Y4mWriter();

    /// INVALID_ARGUMENT: another format; INTERNAL/OUTPUT_FAILED: the disk.
    Status write(const Frame& frame);

    /// Writes what is left and closes; a program that does not call it cannot know that its disk was full.
    Status close();

private:
    Y4mWriter(std::FILE* file, std::string path);
    Status failure() const;

    std::FILE* file_;
    std::string path_;
    bool has_header_ = false;
    std::vector<std::uint8_t> row_;
};

}  // namespace vinf

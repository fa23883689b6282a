#include "vinf/y4m.h"

#include <cerrno>
#include <cstring>
#include <utility>

namespace vinf {

Y4mWriter::Y4mWriter(std::FILE* file, std::string path) : file_(file), path_(std::move(path)) {}

Y4mWriter::Y4mWriter(Y4mWriter&& other) noexcept
    : file_(std::exchange(other.file_, nullptr)),
      path_(std::move(other.path_)),
      has_header_(other.has_header_),
      row_(std::move(other.row_)) {}

Y4mWriter& Y4mWriter::operator=(Y4mWriter&& other) noexcept {
    std::swap(file_, other.file_);
    std::swap(path_, other.path_);
    std::swap(has_header_, other.has_header_);
    std::swap(row_, other.row_);
    return *this;
}

Y4mWriter::~Y4mWriter() { (void)close(); }

Result<Y4mWriter> Y4mWriter::create(const std::string& path) {
    Y4mWriter writer(path == "-" ? stdout : std::fopen(path.c_str(), "wb"), path);
    if (writer.file_ == nullptr) {
        return writer.failure();
    }
    return writer;
}

Status Y4mWriter::write(const Frame& frame) {
    const VideoFormat& format = frame.format();
    if (format.encoding != Encoding::kRaw || format.pixel_format != PixelFormat::kNv12 ||
        format.row_order != RowOrder::kTopDown) {
        return Status::invalid({{"format", "must be raw NV12 with the top row first"}});
    }
    if (file_ == nullptr) {
        return Status::of(Code::kFailedPrecondition, "CLOSED", "the file was closed");
    }
    bool is_fine = true;
    if (!has_header_) {
        is_fine = std::fprintf(file_, "YUV4MPEG2 W%d H%d F%d:%d Ip A1:1 C420mpeg2 XCOLORRANGE=LIMITED\n", format.width,
                               format.height, format.frame_rate.num, format.frame_rate.den) > 0;
        has_header_ = true;
    }
    is_fine = is_fine && std::fputs("FRAME\n", file_) >= 0;
    const PlaneView luma = frame.plane(0);
    for (std::int32_t row = 0; row < luma.row_count; ++row) {
        const auto size = static_cast<std::size_t>(luma.row_bytes);
        is_fine = is_fine && std::fwrite(luma.data + row * luma.stride_bytes, 1, size, file_) == size;
    }
    const PlaneView chroma = frame.plane(1);
    row_.resize(static_cast<std::size_t>(chroma.row_bytes / 2));
    for (std::size_t which = 0; which < 2; ++which) {  // all of Cb, then all of Cr
        for (std::int32_t row = 0; row < chroma.row_count; ++row) {
            const std::uint8_t* pairs = chroma.data + row * chroma.stride_bytes + which;
            for (std::size_t column = 0; column < row_.size(); ++column) {
                row_[column] = pairs[2 * column];
            }
            is_fine = is_fine && std::fwrite(row_.data(), 1, row_.size(), file_) == row_.size();
        }
    }
    return is_fine ? Status() : failure();
}

Status Y4mWriter::close() {
    std::FILE* file = std::exchange(file_, nullptr);
    if (file == nullptr) {
        return {};
    }
    const bool is_flushed = std::fflush(file) == 0;
    const bool is_closed = file == stdout || std::fclose(file) == 0;
    return is_flushed && is_closed ? Status() : failure();
}

Status Y4mWriter::failure() const {
    return Status::of(Code::kInternal, "OUTPUT_FAILED", path_ + " cannot be written: " + std::strerror(errno));
}

}  // namespace vinf

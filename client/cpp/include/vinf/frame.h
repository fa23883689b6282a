/// @file
/// Frames and their formats.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace vinf {

/// A numerator and a denominator, exact for rates such as 24000/1001.
struct Rational {
    std::int32_t num = 0;
    std::int32_t den = 0;
};

/// How a frame's pixels become bytes.
enum class Encoding {
    kRaw = 1,   ///< Pixels as they are, in the layout of PixelFormat.
    kJpeg = 2,  ///< One baseline JPEG picture a frame.
    kPng = 3,   ///< One PNG picture a frame; lossless.
};

/// How the bytes of a raw frame are laid out.
enum class PixelFormat {
    kRgb24 = 1,  ///< Red, green, blue, one byte each.
    kRgba8 = 2,  ///< Red, green, blue, alpha (255): Unity, Vulkan, OpenGL, WebGPU.
    kBgra8 = 3,  ///< Blue, green, red, alpha (255): Unreal, Direct3D.
    kNv12 = 4,   ///< A plane of luma, one of interleaved Cb and Cr at half size; BT.709, limited range; even sizes.
};

/// Which row comes first.
enum class RowOrder {
    kTopDown = 1,   ///< The top row, as in files.
    kBottomUp = 2,  ///< The bottom row, as in OpenGL and Unity textures. Raw frames only.
};

/// How frames are wanted. The server converts, so that a texture upload is one copy.
struct OutputFormat {
    Encoding encoding = Encoding::kRaw;
    PixelFormat pixel_format = PixelFormat::kRgb24;  ///< With JPEG and PNG only kRgb24.
    RowOrder row_order = RowOrder::kTopDown;
    std::int32_t row_alignment_bytes = 1;  ///< Every row begins at a multiple: a power of two in [1, 256].
    std::int32_t jpeg_quality = 90;        ///< [1, 100].
};

/// Where one plane of a raw frame lies in its bytes.
struct Plane {
    std::int64_t offset_bytes = 0;
    std::int64_t stride_bytes = 0;  ///< From one row to the next.
    std::int64_t row_bytes = 0;     ///< Of a row that are pixels; the rest up to the stride is padding.
    std::int32_t row_count = 0;
};

/// What the numbers of a frame mean as colours, in the code points of ITU-T H.273.
struct ColorDescription {
    std::int32_t primaries = 0;  ///< 1: BT.709.
    std::int32_t transfer = 0;   ///< 13: sRGB.
    std::int32_t matrix = 0;     ///< 0: RGB, 1: BT.709, 6: BT.601.
    bool full_range = false;
};

/// What every frame of a video looks like.
struct VideoFormat {
    static constexpr std::size_t kMaxPlanes = 4;

    std::int32_t width = 0;
    std::int32_t height = 0;
    Rational frame_rate;
    Encoding encoding = Encoding::kRaw;
    PixelFormat pixel_format = PixelFormat::kRgb24;
    RowOrder row_order = RowOrder::kTopDown;
    std::int64_t frame_size_bytes = 0;  ///< 0: frames differ in size (JPEG, PNG).
    std::int64_t frame_count = 0;       ///< Frames the video will have.
    std::size_t plane_count = 0;        ///< 0 for JPEG and PNG.
    std::array<Plane, kMaxPlanes> planes{};
    ColorDescription color;
    std::int32_t revision = 0;  ///< Equal numbers, equal formats.

    /// How long a frame is meant to be shown; 0 when the rate is not known.
    std::chrono::microseconds frame_duration() const {
        return std::chrono::microseconds(
            frame_rate.num > 0 ? std::int64_t{frame_rate.den} * 1000000 / frame_rate.num : 0);
    }
};

/// One plane of a frame, ready for an upload.
struct PlaneView {
    const std::uint8_t* data = nullptr;
    std::int64_t stride_bytes = 0;
    std::int64_t row_bytes = 0;
    std::int32_t row_count = 0;
};

namespace detail {
class FrameRing;
struct FrameSlot;
}  // namespace detail

/// A handle of one frame in a pool. Copies share the bytes, which stay what they are as long as a handle exists;
/// copying allocates nothing. A handle may outlive its FramePuller.
///
/// The pool is small (PullerOptions::held_frames): who keeps more handles than that stops the puller until some go.
///
/// Thread-safety: different handles may be used from different threads, also those of the same frame; one and the same
/// handle from one thread at a time.
class Frame {
public:
    Frame() = default;
    Frame(const Frame& other);
    Frame(Frame&& other) noexcept;
    Frame& operator=(const Frame& other);
    Frame& operator=(Frame&& other) noexcept;
    ~Frame();

    /// False for "no frame"; then nothing below may be called.
    explicit operator bool() const { return slot_ != nullptr; }

    /// Dense from 0 within a generation.
    std::int64_t index() const;

    /// When it is due, from 0 at the first frame.
    std::chrono::microseconds presentation_time() const;

    /// When it was made, by the server's clock.
    std::chrono::system_clock::time_point generate_time() const;

    /// The whole frame: raw bytes, or a JPEG or PNG file.
    const std::uint8_t* data() const;
    std::size_t size() const;

    /// What its bytes mean.
    const VideoFormat& format() const;

    /// A plane of a raw frame; empty for one that does not exist.
    PlaneView plane(std::size_t number) const;

private:
    friend class detail::FrameRing;
    Frame(std::shared_ptr<detail::FrameRing> ring, detail::FrameSlot* slot);
    void reset();

    std::shared_ptr<detail::FrameRing> ring_;  // keeps the slot alive
    detail::FrameSlot* slot_ = nullptr;
};

}  // namespace vinf

#pragma once

#include <cstddef>
#include <cstdint>

namespace vinf::detail {

/// CRC-32C (Castagnoli) of bytes that follow those with the checksum `crc`; 0 where nothing comes before.
///
/// Own code, because the library for it (google/crc32c) is not packaged by Debian, and abseil has it only since 2023.
std::uint32_t crc32c(std::uint32_t crc, const void* data, std::size_t size);

/// The same by tables alone; for processors without the instruction, and for the test that compares both.
std::uint32_t crc32c_portable(std::uint32_t crc, const void* data, std::size_t size);

}  // namespace vinf::detail

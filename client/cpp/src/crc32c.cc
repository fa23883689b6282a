#include "crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#include <nmmintrin.h>
#define VINF_CRC32C_X86 1
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#define VINF_CRC32C_ARM 1
#endif

namespace vinf::detail {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78;  // bits reversed

using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
    Tables tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit) {
            crc = (crc >> 1) ^ ((crc & 1) ? kPolynomial : 0);
        }
        tables[0][byte] = crc;
    }
    for (std::size_t byte = 0; byte < 256; ++byte) {
        for (std::size_t table = 1; table < 8; ++table) {
            const std::uint32_t before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][before & 0xff];
        }
    }
    return tables;
}

constexpr Tables kTables = make_tables();

std::uint32_t read_le32(const unsigned char* bytes) {
    return std::uint32_t{bytes[0]} | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 |
           std::uint32_t{bytes[3]} << 24;
}

#if defined(VINF_CRC32C_X86) || defined(VINF_CRC32C_ARM)

#if defined(VINF_CRC32C_X86)
#define VINF_CRC32C_TARGET __attribute__((target("sse4.2")))
VINF_CRC32C_TARGET std::uint32_t step8(std::uint32_t crc, const unsigned char* bytes) {
    std::uint64_t word;
    std::memcpy(&word, bytes, 8);
    return static_cast<std::uint32_t>(_mm_crc32_u64(crc, word));
}
VINF_CRC32C_TARGET std::uint32_t step1(std::uint32_t crc, unsigned char byte) { return _mm_crc32_u8(crc, byte); }
bool has_instruction() {
    static const bool has = __builtin_cpu_supports("sse4.2") != 0;
    return has;
}
#else
#define VINF_CRC32C_TARGET
std::uint32_t step8(std::uint32_t crc, const unsigned char* bytes) {
    std::uint64_t word;
    std::memcpy(&word, bytes, 8);
    return __crc32cd(crc, word);
}
std::uint32_t step1(std::uint32_t crc, unsigned char byte) { return __crc32cb(crc, byte); }
bool has_instruction() { return true; }
#endif

/// Product of two polynomials modulo the checksum's, bits reversed: 1 is 0x80000000.
std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
    std::uint32_t product = 0;
    for (std::uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
        if (a & bit) {
            product ^= b;
        }
        b = (b >> 1) ^ ((b & 1) ? kPolynomial : 0);
    }
    return product;
}

/// x^(8 * count): what a checksum is multiplied with when `count` zero bytes follow.
std::uint32_t zeros(std::size_t count) {
    std::uint32_t power = 0x80000000u;
    std::uint32_t square = 0x00800000u;  // x^8
    for (; count != 0; count >>= 1) {
        if (count & 1) {
            power = multiply(power, square);
        }
        square = multiply(square, square);
    }
    return power;
}

/// Below this the three lanes are not worth joining.
constexpr std::size_t kLanesFrom = 16384;

/// The instruction takes three cycles but starts every one: three lanes at a time are three times as fast as one.
VINF_CRC32C_TARGET std::uint32_t crc32c_instruction(std::uint32_t crc, const unsigned char* bytes, std::size_t size) {
    if (size >= kLanesFrom) {
        const std::size_t lane = size / 24 * 8;
        std::uint32_t first = crc;
        std::uint32_t second = 0;
        std::uint32_t third = 0;
        for (std::size_t at = 0; at < lane; at += 8) {
            first = step8(first, bytes + at);
            second = step8(second, bytes + lane + at);
            third = step8(third, bytes + 2 * lane + at);
        }
        const std::uint32_t shift = zeros(lane);
        crc = multiply(shift, multiply(shift, first) ^ second) ^ third;
        bytes += 3 * lane;
        size -= 3 * lane;
    }
    for (; size >= 8; bytes += 8, size -= 8) {
        crc = step8(crc, bytes);
    }
    for (; size > 0; ++bytes, --size) {
        crc = step1(crc, *bytes);
    }
    return crc;
}

#endif

}  // namespace

std::uint32_t crc32c_portable(std::uint32_t crc, const void* data, std::size_t size) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    crc = ~crc;
    for (; size >= 8; bytes += 8, size -= 8) {
        const std::uint32_t low = read_le32(bytes) ^ crc;
        const std::uint32_t high = read_le32(bytes + 4);
        crc = kTables[7][low & 0xff] ^ kTables[6][(low >> 8) & 0xff] ^ kTables[5][(low >> 16) & 0xff] ^
              kTables[4][low >> 24] ^ kTables[3][high & 0xff] ^ kTables[2][(high >> 8) & 0xff] ^
              kTables[1][(high >> 16) & 0xff] ^ kTables[0][high >> 24];
    }
    for (; size > 0; ++bytes, --size) {
        crc = (crc >> 8) ^ kTables[0][(crc ^ *bytes) & 0xff];
    }
    return ~crc;
}

std::uint32_t crc32c(std::uint32_t crc, const void* data, std::size_t size) {
#if defined(VINF_CRC32C_X86) || defined(VINF_CRC32C_ARM)
    if (has_instruction()) {
        return ~crc32c_instruction(~crc, static_cast<const unsigned char*>(data), size);
    }
#endif
    return crc32c_portable(crc, data, size);
}

}  // namespace vinf::detail

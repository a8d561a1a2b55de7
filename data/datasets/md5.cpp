#include "data/datasets/md5.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace glia {
namespace {

// T[i] = ⌊2³² |sin(i + 1)|⌋
struct Sines {
  uint32_t value[64];
  Sines() {
    for (int i = 0; i < 64; ++i)
      value[i] = static_cast<uint32_t>(std::floor(4294967296.0 * std::abs(std::sin(i + 1.0))));
  }
};

void absorb(uint32_t (&state)[4], const char* block) {
  static const Sines sines;
  static constexpr int kShift[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
  uint32_t word[16];
  std::memcpy(word, block, 64);  // little-endian, as this machine
  uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
  for (int i = 0; i < 64; ++i) {
    uint32_t f = 0;
    int g = 0;
    switch (i / 16) {
      case 0: f = (b & c) | (~b & d), g = i; break;
      case 1: f = (d & b) | (~d & c), g = (5 * i + 1) % 16; break;
      case 2: f = b ^ c ^ d, g = (3 * i + 5) % 16; break;
      default: f = c ^ (b | ~d), g = 7 * i % 16; break;
    }
    const uint32_t turned = std::rotl(a + f + sines.value[i] + word[g], kShift[i / 16][i % 4]);
    a = d, d = c, c = b, b += turned;
  }
  state[0] += a, state[1] += b, state[2] += c, state[3] += d;
}

}  // namespace

std::string md5(std::string_view bytes) {
  static_assert(std::endian::native == std::endian::little);
  uint32_t state[4] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476};
  const uint64_t bits = 8 * static_cast<uint64_t>(bytes.size());
  while (bytes.size() >= 64) {
    absorb(state, bytes.data());
    bytes.remove_prefix(64);
  }
  char last[128] = {};  // the rest, a one bit, zeros, the length: one block or two
  std::memcpy(last, bytes.data(), bytes.size());
  last[bytes.size()] = static_cast<char>(0x80);
  const size_t blocks = bytes.size() < 56 ? 1 : 2;
  std::memcpy(last + 64 * blocks - 8, &bits, 8);
  for (size_t i = 0; i < blocks; ++i) absorb(state, last + 64 * i);
  std::string text;
  for (const uint32_t word : state)
    for (int i = 0; i < 4; ++i) text += fmt::format("{:02x}", word >> 8 * i & 255);
  return text;
}

}  // namespace glia

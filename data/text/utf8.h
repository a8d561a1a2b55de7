// UTF-8, strictly: no overlong form, no surrogate, nothing above U+10FFFF (RFC 3629).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace glia::utf8 {

constexpr uint32_t kInvalid = 0xFFFFFFFFu;

// Some editors put it before a text, which it is no part of.
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
inline std::string_view without_mark(std::string_view text) {
  return text.starts_with(kByteOrderMark) ? text.substr(kByteOrderMark.size()) : text;
}

// Reads one code point at `p` (p < end) and moves past it. An invalid sequence gives kInvalid and moves past its
// longest valid prefix, at least one byte (Unicode 15, section 3.9; Python and Rust do the same).
inline uint32_t decode(const char*& p, const char* end) {
  const auto byte = [](const char* q) { return static_cast<uint8_t>(*q); };
  const uint8_t lead = byte(p++);
  if (lead < 0x80) return lead;
  int more;
  uint32_t code;
  uint8_t low = 0x80, high = 0xBF;  // bounds of the second byte: these exclude overlong forms and surrogates
  if (lead >= 0xC2 && lead <= 0xDF) {
    more = 1, code = lead & 0x1F;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    more = 2, code = lead & 0x0F;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    more = 3, code = lead & 0x07;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return kInvalid;
  }
  for (; more > 0; --more) {
    if (p == end || byte(p) < low || byte(p) > high) return kInvalid;
    code = code << 6 | (byte(p++) & 0x3F);
    low = 0x80, high = 0xBF;
  }
  return code;
}

// Writes a code point (a valid one) and returns its length, 1…4.
inline int encode(uint32_t code, char* out) {
  if (code < 0x80) return out[0] = static_cast<char>(code), 1;
  if (code < 0x800) {
    out[0] = static_cast<char>(0xC0 | code >> 6), out[1] = static_cast<char>(0x80 | (code & 0x3F));
    return 2;
  }
  if (code < 0x10000) {
    out[0] = static_cast<char>(0xE0 | code >> 12), out[1] = static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out[2] = static_cast<char>(0x80 | (code & 0x3F));
    return 3;
  }
  out[0] = static_cast<char>(0xF0 | code >> 18), out[1] = static_cast<char>(0x80 | (code >> 12 & 0x3F));
  out[2] = static_cast<char>(0x80 | (code >> 6 & 0x3F)), out[3] = static_cast<char>(0x80 | (code & 0x3F));
  return 4;
}

inline void append(std::string& text, uint32_t code) {
  char bytes[4];
  text.append(bytes, static_cast<size_t>(encode(code, bytes)));
}

// Offset of the first invalid byte sequence, or npos.
inline size_t find_invalid(std::string_view text) {
  const char *begin = text.data(), *p = begin, *end = begin + text.size();
  while (p < end) {
    if (static_cast<uint8_t>(*p) < 0x80) {
      ++p;
      continue;
    }
    const char* at = p;
    if (decode(p, end) == kInvalid) return static_cast<size_t>(at - begin);
  }
  return std::string_view::npos;
}

// The text with each byte that is not UTF-8 as "\\xNN": for JSON, which has no way to hold others.
inline std::string escaped(std::string_view text) {
  std::string out;
  for (const char *p = text.data(), *end = p + text.size(); p < end;) {
    const char* const at = p;
    if (decode(p, end) != kInvalid) {
      out.append(at, p);
      continue;
    }
    for (const char* byte = at; byte < p; ++byte) {
      static constexpr char kDigits[] = "0123456789ABCDEF";
      out += "\\x";
      out += kDigits[static_cast<uint8_t>(*byte) >> 4];
      out += kDigits[static_cast<uint8_t>(*byte) & 15];
    }
  }
  return out;
}

}  // namespace glia::utf8

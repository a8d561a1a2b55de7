// MD5 (RFC 1321), to compare downloads with the sums their publishers give. Not for anything that an attacker may
// touch.
#pragma once

#include <string>
#include <string_view>

namespace glia {

std::string md5(std::string_view bytes);  // 32 hex digits

}  // namespace glia

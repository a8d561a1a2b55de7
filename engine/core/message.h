// What went wrong, for a person: our own errors say it; what the library throws where memory ends does not.
#pragma once
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

namespace glia {

inline std::string message_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) || dynamic_cast<const std::length_error*>(&error))
    return "this machine's memory does not hold what was asked for";
  return error.what();
}

}  // namespace glia

// A text's words as white space cuts it, and nothing else does.
#pragma once

#include <algorithm>
#include <string_view>

namespace glia {

// put(begin, end) of each word's bytes, in their order, as long as it returns true.
template <class Put> void for_each_word(std::string_view text, Put&& put) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  for (size_t end = 0, begin; (begin = text.find_first_not_of(kSpace, end)) != std::string_view::npos;) {
    end = std::min(text.find_first_of(kSpace, begin), text.size());
    if (!put(begin, end)) return;
  }
}

}  // namespace glia

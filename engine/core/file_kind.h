// What a file is that was given in another's place: the commonest ones by their first bytes, so that an error can name
// it ("a gzip file; unpack it") where the reader would only find a strange byte.
#pragma once
#include <string>
#include <string_view>

namespace glia {

// A kind and what to do about it, or "" for text and for whatever else begins so. A few hundred bytes are enough.
std::string foreign_kind(std::string_view head);

// An error where the content of `source` begins as one of them does: "source: expected JSON, found a gzip file; unpack it".
void refuse_foreign(std::string_view content, const std::string& source, const char* expected);

}  // namespace glia

// JSON from outside, read strictly: an error says where it stops being JSON and what stands there.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace glia {

// The value that a text is; keys keep their order. Where it is none, or an object has a key twice, the value is
// discarded and `why` says so with line and column: "line 3, column 7: expected JSON, found the end of the file".
nlohmann::ordered_json parse_json(std::string_view text, std::string& why);

// The object that a text, or a file, is. Errors: "source:3:7: expected JSON, found …", another kind of file or of value.
nlohmann::ordered_json json_object(std::string_view text, const std::string& source);
nlohmann::ordered_json read_json_object(const std::string& path);

}  // namespace glia

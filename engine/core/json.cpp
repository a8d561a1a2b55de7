#include "engine/core/json.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <set>
#include <vector>

#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/file_kind.h"
#include "engine/core/message.h"

namespace glia {
namespace {

using Json = nlohmann::ordered_json;

// What stands there, as far as the next space or bracket.
std::string shown_at(std::string_view text, size_t at) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) return "nothing";
  if (at >= text.size()) return "the end of the file";
  std::string_view rest = text.substr(at, 20);
  rest = rest.substr(0, std::max<size_t>(1, rest.find_first_of(" \t\r\n,:[]{}", 1)));
  std::string shown;
  for (const char c : rest) {
    const auto byte = static_cast<uint8_t>(c);
    shown += byte >= 0x20 && byte < 0x7F ? std::string(1, c) : fmt::format("\\x{:02x}", byte);
  }
  return "'" + shown + "'";
}

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// Where parsing stopped, and why; nothing while all is well.
struct Parsed {
  Json json;
  size_t at = 0;
  std::string problem = "";
};

// Of a key that stands twice in one object no reader can tell which is meant, and readers differ in which they take.
class KeysOnce {
 public:
  std::string twice;  // the first such key

  bool operator()(int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys_.emplace_back();
    if (event == Json::parse_event_t::object_end) keys_.pop_back();
    if (event == Json::parse_event_t::key && twice.empty())
      if (const auto& name = parsed.get_ref<const std::string&>(); !keys_.back().insert(name).second) twice = name;
    return true;
  }

 private:
  std::vector<std::set<std::string>> keys_;
};

Parsed parse(std::string_view text) {
  Parsed parsed{Json(Json::value_t::discarded)};
  KeysOnce keys;
  try {
    parsed.json = Json::parse(text, std::ref(keys));
    if (!keys.twice.empty())
      parsed.problem = fmt::format("the key \"{}\" stands twice in one object", keys.twice.substr(0, 80));
  } catch (const Json::parse_error& error) {  // its byte counts from 1 and is the last one of what was not wanted
    parsed.at = std::max<size_t>(error.byte, 1) - 1;
    while (parsed.at > 0 && parsed.at < text.size() && is_word(text[parsed.at]) && is_word(text[parsed.at - 1]))
      --parsed.at;
    parsed.problem = "expected JSON, found " + shown_at(text, parsed.at);
  } catch (const Json::exception&) {
    parsed.problem = "a number in it is larger than any that JSON's readers hold";
  }
  if (!parsed.problem.empty()) parsed.json = Json(Json::value_t::discarded);
  return parsed;
}

}  // namespace

Json parse_json(std::string_view text, std::string& why) {
  Parsed parsed = parse(text);
  if (parsed.problem.starts_with("expected")) {
    const TextPlace place = place_in(text, parsed.at);
    why = fmt::format("line {}, column {}: {}", place.line, place.column, parsed.problem);
  } else {
    why = parsed.problem;
  }
  return std::move(parsed.json);
}

Json json_object(std::string_view text, const std::string& source) {
  refuse_foreign(text, source, "JSON");
  Parsed parsed = parse(text);
  if (parsed.problem.starts_with("expected")) {
    const TextPlace place = place_in(text, parsed.at);
    fail_input("{}:{}:{}: {}", source, place.line, place.column, parsed.problem);
  }
  if (!parsed.problem.empty()) fail_input("{}: {}", source, parsed.problem);
  if (!parsed.json.is_object()) fail_input("{}: expected a JSON object, found {}", source, parsed.json.type_name());
  return std::move(parsed.json);
}

Json read_json_object(const std::string& path) { return json_object(read_file(path), path); }

}  // namespace glia

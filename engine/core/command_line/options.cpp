#include "engine/core/command_line/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace glia {
namespace {

std::string bounds(const OptionRow& row) {
  if (std::isinf(row.least) && std::isinf(row.most)) return "";
  if (std::isinf(row.most)) return fmt::format(" of at least {}", row.least);
  if (std::isinf(row.least)) return fmt::format(" of at most {}", row.most);
  return fmt::format(" in [{}, {}]", row.least, row.most);
}

std::string wanted(const OptionRow& row) {
  if (std::holds_alternative<bool>(row.standard)) return "on or off";
  if (std::holds_alternative<int64_t>(row.standard)) return "a whole number" + bounds(row);
  if (std::holds_alternative<double>(row.standard)) return "a finite number" + bounds(row);
  std::string names;
  for (const char* choice : row.choices) names += (names.empty() ? "one of " : ", ") + std::string(choice);
  return names.empty() ? "text" : names;
}

[[noreturn]] void refuse(const OptionRow& row, const std::string& text) {
  fail_input("--{}: expected {}, got '{}'", row.name, wanted(row), text);
}

template <class T> T number(const OptionRow& row, const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) refuse(row, text);
  return value;
}

}  // namespace

std::string option_key(const std::string& name) {
  std::string key = name;
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

OptionValue parse_option(const OptionRow& row, const std::string& text) {
  OptionValue value;
  if (std::holds_alternative<bool>(row.standard)) {
    const bool on = text == "on" || text == "true" || text == "yes" || text == "1";
    if (!on && text != "off" && text != "false" && text != "no" && text != "0") refuse(row, text);
    value = on;
  } else if (std::holds_alternative<int64_t>(row.standard)) {
    value = number<int64_t>(row, text);
  } else if (std::holds_alternative<double>(row.standard)) {
    value = number<double>(row, text);
  } else {
    value = text;
  }
  check_option(row, value);
  return value;
}

void check_option(const OptionRow& row, const OptionValue& value) {
  if (value.index() != row.standard.index()) refuse(row, option_text(value));
  const auto inside = [&](double x) { return std::isfinite(x) && x >= row.least && x <= row.most; };
  if (const auto* whole = std::get_if<int64_t>(&value); whole && !inside(static_cast<double>(*whole)))
    refuse(row, option_text(value));
  if (const auto* real = std::get_if<double>(&value); real && !inside(*real)) refuse(row, option_text(value));
  if (const auto* text = std::get_if<std::string>(&value); text && !row.choices.empty())
    if (std::none_of(row.choices.begin(), row.choices.end(), [&](const char* c) { return *text == c; }))
      refuse(row, *text);
}

std::string option_text(const OptionValue& value) {
  return std::visit(
      [](const auto& v) -> std::string {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, bool>) return v ? "on" : "off";
        else if constexpr (std::is_same_v<T, std::string>) return v;
        else return fmt::format("{}", v);
      },
      value);
}

}  // namespace glia

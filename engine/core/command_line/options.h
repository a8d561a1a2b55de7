// Options as data: one row an option drives parsing, --help, JSON and range checks, wherever the option is declared
// (a router, a data set, a loss). Values travel as OptionValues, which know nothing of who declared them.
#pragma once
#include <initializer_list>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "engine/core/check.h"

namespace glia {

using OptionValue = std::variant<bool, int64_t, double, std::string>;

struct OptionRow {
  const char* name;      // "top-p": the flag is --top-p, the key in JSON "top_p"
  OptionValue standard;  // the default; the option's type is its type
  const char* help;
  // Bounds of a number, both allowed.
  double least = -std::numeric_limits<double>::infinity(), most = std::numeric_limits<double>::infinity();
  std::vector<const char*> choices = {};  // of a text; empty: any
};

// "top-p" → "top_p"
std::string option_key(const std::string& name);
// Errors name the flag, what was expected and what came: "--top-p: expected a number in [0, 1], got '2'".
OptionValue parse_option(const OptionRow& row, const std::string& text);
// Within the row's bounds and choices, of its type; errors as above.
void check_option(const OptionRow& row, const OptionValue& value);
// What parse_option would read: on, off, 3, 0.1, text.
std::string option_text(const OptionValue& value);

// Values by name, only those that somebody set; a row's default stands for the others.
class OptionValues {
 public:
  void set(const std::string& name, OptionValue value) { values_[name] = std::move(value); }
  bool contains(const std::string& name) const { return values_.contains(name); }
  const std::map<std::string, OptionValue>& all() const { return values_; }
  bool operator==(const OptionValues&) const = default;

  // The value under the row's name, else its default. T is the row's type.
  template <class T> T get(const OptionRow& row) const {
    const auto found = values_.find(row.name);
    const OptionValue& value = found == values_.end() ? row.standard : found->second;
    CHECK(std::holds_alternative<T>(value), "option {}: read as another type than its row declares", row.name);
    return std::get<T>(value);
  }

 private:
  std::map<std::string, OptionValue> values_;
};

}  // namespace glia

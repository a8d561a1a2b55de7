// Typed access to a JSON object with the file in every message. JSON has no NaN: a diverged loss is written as null.
#pragma once
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "engine/core/check.h"

namespace glia::results {

using Json = nlohmann::ordered_json;  // keeps the order of the keys as written: files compare byte by byte

struct Fields {
  const Json& json;
  const std::string& from;

  const Json& at(const char* key) const {
    if (const auto it = json.find(key); it != json.end()) return *it;
    fail_input("{}: expected the field \"{}\", which is not there", from, key);
  }
  template <class T> T get(const char* key) const { return convert<T>(at(key), key); }
  template <class T> T get(const char* key, T otherwise) const {
    const auto it = json.find(key);
    return it == json.end() ? otherwise : convert<T>(*it, key);
  }
  Json object(const char* key) const {
    const Json& value = at(key);
    if (!value.is_object()) fail_input("{}: expected an object as \"{}\", got {}", from, key, value.type_name());
    return value;
  }
  template <class T> std::vector<T> list(const char* key) const {
    const Json& value = at(key);
    if (!value.is_array()) fail_input("{}: expected a list as \"{}\", got {}", from, key, value.type_name());
    std::vector<T> items;
    for (const Json& item : value) items.push_back(convert<T>(item, key));
    return items;
  }

 private:
  template <class T> T convert(const Json& value, const char* key) const {
    if constexpr (std::is_same_v<T, std::string>) {
      if (value.is_string()) return value.get<T>();
    } else if constexpr (std::is_same_v<T, bool>) {
      if (value.is_boolean()) return value.get<T>();
    } else if constexpr (std::is_integral_v<T>) {
      if (value.is_number_integer()) return value.get<T>();
    } else {
      if (value.is_number()) return value.get<T>();
      if (value.is_null()) return std::nan("");
    }
    constexpr const char* wanted = std::is_same_v<T, std::string> ? "text"
                                   : std::is_same_v<T, bool>      ? "true or false"
                                   : std::is_integral_v<T>        ? "an integer"
                                                                  : "a number";
    fail_input("{}: expected {} as \"{}\", got {}", from, wanted, key, value.dump());
  }
};

}  // namespace glia::results

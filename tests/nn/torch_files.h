// Small files as torch.save would write them, made in the test: pickles by hand, an archive by libzip.
#pragma once
#include <zip.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "tests/test.h"

namespace glia::test {

inline std::string little_endian(uint64_t value, size_t bytes) {
  return std::string(reinterpret_cast<const char*>(&value), bytes);
}

struct TorchTensor {
  std::string name, type, key;  // type: "FloatStorage"
  int64_t elements = 0, offset = 0;
  std::vector<int64_t> size, stride;
};

inline std::string pickled(const std::string& text) { return "X" + little_endian(text.size(), 4) + text; }
inline std::string pickled(int64_t value) { return "J" + little_endian(static_cast<uint64_t>(value), 4); }
inline std::string pickled(const std::vector<int64_t>& values) {
  std::string tuple = "(";
  for (const int64_t v : values) tuple += pickled(v);
  return tuple + "t";
}

inline std::string pickled(const TorchTensor& t) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + pickled(std::string("storage")) + "ctorch\n" + t.type + "\n" +
         pickled(t.key) + pickled(std::string("cpu")) + pickled(t.elements) + "tQ" + pickled(t.offset) +
         pickled(t.size) + pickled(t.stride) + "\x89" + "ccollections\nOrderedDict\n)RtR";
}

// A state dict: the value of each name.
inline std::string pickled_dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string text =
      "\x80\x02"
      "ccollections\nOrderedDict\n)R(";
  for (const auto& [name, value] : items) text += pickled(name) + value;
  return text + "u.";
}
inline std::string state_dict(const std::vector<TorchTensor>& tensors) {
  std::vector<std::pair<std::string, std::string>> items;
  for (const TorchTensor& t : tensors) items.emplace_back(t.name, pickled(t));
  return pickled_dict(items);
}

inline void write_zip(const std::string& path, const std::map<std::string, std::string>& records,
                      bool compressed = false) {
  zip_t* zip = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, nullptr);
  REQUIRE(zip);
  for (const auto& [name, content] : records) {
    const zip_int64_t at = zip_file_add(
        zip, name.c_str(), zip_source_buffer(zip, content.data(), content.size(), 0), ZIP_FL_OVERWRITE);
    REQUIRE(at >= 0);
    zip_set_file_compression(zip, static_cast<zip_uint64_t>(at), compressed ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0);
  }
  REQUIRE(zip_close(zip) == 0);
}

template <class T> std::string bytes_of(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

}  // namespace glia::test

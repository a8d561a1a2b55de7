#include "data/datasets/token_cache.h"

#include <cstring>
#include <filesystem>
#include <type_traits>

#include "engine/core/check.h"
#include "engine/core/file.h"

namespace glia {
namespace {

constexpr char kMagic[8] = {'G', 'L', 'I', 'A', 'T', 'O', 'K', '2'};  // the last character is the format's version

// magic, key, payload bytes, payload hash; then the payload
struct Header {
  char magic[8];
  uint64_t key, size, hash;
};

std::string path_of(const std::string& dir, const std::string& name, uint64_t key) {
  return (std::filesystem::path(dir) / fmt::format("{}-{:016x}.tokens", name, key)).string();
}

class Writer {
 public:
  template <class T> void number(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(const std::string& value) {
    number<uint64_t>(value.size());
    bytes += value;
  }
  void texts(const std::vector<std::string>& values) {
    number<uint64_t>(values.size());
    for (const std::string& value : values) text(value);
  }
  template <class T> void numbers(const std::vector<T>& values) {
    number<uint64_t>(values.size());
    bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  void split(const TokenSplit& s) { numbers(s.ids), numbers(s.offsets), numbers(s.labels); }
  std::string bytes;
};

// Bounds are checked although the hash was: a reader that trusts its input is one bug away from reading anything.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  template <class T> T number() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  std::string text() {
    const auto size = number<uint64_t>();
    return std::string(take(size), size);
  }
  std::vector<std::string> texts() {
    std::vector<std::string> values;
    for (auto n = number<uint64_t>(); n > 0; --n) values.push_back(text());
    return values;
  }
  template <class T> std::vector<T> numbers() {
    const auto n = number<uint64_t>();
    CHECK(n <= bytes_.size() / sizeof(T), "token cache: {} numbers in {} bytes", n, bytes_.size());
    std::vector<T> values(n);
    if (n) std::memcpy(values.data(), take(n * sizeof(T)), n * sizeof(T));
    return values;
  }
  TokenSplit split() {
    TokenSplit s;
    s.ids = numbers<int32_t>(), s.offsets = numbers<int64_t>(), s.labels = numbers<int32_t>();
    CHECK(s.offsets.size() == s.labels.size() + 1 && s.offsets.front() == 0 &&
              s.offsets.back() == static_cast<int64_t>(s.ids.size()),
          "token cache: {} offsets for {} labels", s.offsets.size(), s.labels.size());
    return s;
  }
  bool at_end() const { return bytes_.empty(); }

 private:
  const char* take(uint64_t n) {
    CHECK(n <= bytes_.size(), "token cache: wants {} bytes, {} are left", n, bytes_.size());
    const char* at = bytes_.data();
    bytes_.remove_prefix(n);
    return at;
  }
  std::string_view bytes_;
};

}  // namespace

std::optional<CachedTokens> read_token_cache(const std::string& dir, const std::string& name, uint64_t key) {
  const std::string path = path_of(dir, name, key);
  if (!std::filesystem::is_regular_file(path)) return std::nullopt;
  try {
    const std::string content = read_file(path);
    Header header;
    if (content.size() < sizeof header) return std::nullopt;
    std::memcpy(&header, content.data(), sizeof header);
    const std::string_view payload = std::string_view(content).substr(sizeof header);
    if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0 || header.key != key ||
        header.size != payload.size() || header.hash != hash_bytes(payload))
      return std::nullopt;
    Reader reader(payload);
    CachedTokens tokens;
    tokens.class_names = reader.texts(), tokens.vocabulary = reader.texts();
    tokens.source = reader.text();
    tokens.is_synthetic = reader.number<uint8_t>() != 0;
    if (reader.number<uint8_t>() != 0) tokens.bayes_accuracy = reader.number<double>();
    else reader.number<double>();
    tokens.train = reader.split(), tokens.test = reader.split();
    tokens.notes = reader.texts();
    tokens.test.near_copies = reader.numbers<uint8_t>();
    if (!reader.at_end())  // rows with a border
      for (TokenSplit* split : {&tokens.train, &tokens.test}) {
        split->borders = reader.numbers<int32_t>();
        if (split->borders.size() != split->labels.size()) return std::nullopt;
      }
    if (!reader.at_end() || tokens.test.near_copies.size() != tokens.test.labels.size()) return std::nullopt;
    return tokens;
  } catch (const Error&) {
    return std::nullopt;  // unreadable is the same as not there
  }
}

std::string write_token_cache(const std::string& dir, const std::string& name, uint64_t key,
                              const CachedTokens& tokens) {
  Writer payload;
  payload.texts(tokens.class_names), payload.texts(tokens.vocabulary);
  payload.text(tokens.source);
  payload.number<uint8_t>(tokens.is_synthetic), payload.number<uint8_t>(tokens.bayes_accuracy.has_value());
  payload.number(tokens.bayes_accuracy.value_or(0.0));
  payload.split(tokens.train), payload.split(tokens.test);
  payload.texts(tokens.notes);
  payload.numbers(tokens.test.near_copies);
  if (!tokens.train.borders.empty()) payload.numbers(tokens.train.borders), payload.numbers(tokens.test.borders);
  Header header{{}, key, payload.bytes.size(), hash_bytes(payload.bytes)};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  Writer file;
  file.number(header);
  file.bytes += payload.bytes;
  try {
    write_file_atomic(path_of(dir, name, key), file.bytes);
    return "";
  } catch (const std::exception& e) {  // a read-only folder, a full disk
    return fmt::format("token cache not written: {}", e.what());
  }
}

}  // namespace glia

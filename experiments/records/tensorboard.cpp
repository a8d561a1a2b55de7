#include "experiments/records/tensorboard.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>

#include "engine/core/check.h"
#include "engine/core/file.h"

namespace glia::results {
namespace {

static_assert(std::endian::native == std::endian::little, "event files are little-endian");

template <class T> std::string bytes_of(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

// CRCs of data that holds CRCs are weak, so the format stores them rotated and shifted.
uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

std::string record(const std::string& data) {
  const std::string length = bytes_of(uint64_t(data.size()));
  std::string out = length;
  out += bytes_of(masked_crc(length));
  out += data;
  out += bytes_of(masked_crc(data));
  return out;
}

// --- protobuf wire format: key = field number · 8 + wire type (0 varint, 1 eight bytes, 2 length + bytes, 5 four
// bytes) ---

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += char(value | 0x80);
  return out += char(value);
}

std::string key(int field, int type) { return varint(uint64_t(field) << 3 | uint64_t(type)); }
std::string field_int(int field, int64_t value) { return key(field, 0).append(varint(uint64_t(value))); }
std::string field_double(int field, double value) { return key(field, 1).append(bytes_of(value)); }
std::string field_float(int field, float value) { return key(field, 5).append(bytes_of(value)); }
std::string field_bytes(int field, const std::string& value) {
  return key(field, 2).append(varint(value.size())).append(value);
}
std::string field_packed(int field, const std::vector<double>& values) {
  std::string packed;
  for (double value : values) packed += bytes_of(value);
  return field_bytes(field, packed);
}

struct HistogramProto {
  double min = 0, max = 0, num = 0, sum = 0, sum_squares = 0;
  std::vector<double> limits, counts;  // bucket i: (limits[i − 1], limits[i]]

  std::string encoded() const {
    return field_double(1, min) + field_double(2, max) + field_double(3, num) + field_double(4, sum) +
           field_double(5, sum_squares) + field_packed(6, limits) + field_packed(7, counts);
  }
};

// Summary { Value { tag = 1, simple_value = 2 (float), histo = 5 } = 1 }
std::string scalar_summary(const std::string& tag, double value) {
  return field_bytes(1, field_bytes(1, tag) + field_float(2, float(value)));
}
std::string histogram_summary(const std::string& tag, const HistogramProto& histogram) {
  return field_bytes(1, field_bytes(1, tag) + field_bytes(5, histogram.encoded()));
}

// google.protobuf.Value { number_value = 2, string_value = 3, bool_value = 4 }
std::string json_value(const Json& value) {
  if (value.is_boolean()) return field_int(4, value.get<bool>());
  if (value.is_number()) return field_double(2, value.get<double>());
  return field_bytes(3, value.is_string() ? value.get<std::string>() : value.dump());
}

// Value { tag = 1, metadata = 9 { plugin_data = 1 { plugin_name = 1, content = 2 } } }, the content
// HParamsPluginData { session_start_info = 3 { map hparams = 1, group_name = 4, start_time_secs = 5 } }
// (tensorboard/plugins/hparams/plugin_data.proto).
std::string session_summary(const HyperParameters& parameters, double start) {
  std::string info;
  for (const auto& [name, value] : parameters.values.items())
    info += field_bytes(1, field_bytes(1, name) + field_bytes(2, json_value(value)));
  info += field_bytes(4, parameters.group) + field_double(5, start);
  const std::string plugin = field_bytes(1, "hparams") + field_bytes(2, field_bytes(3, info));
  return field_bytes(1, field_bytes(1, "_hparams_/session_start_info") + field_bytes(9, field_bytes(1, plugin)));
}

// The limits TensorFlow uses: 1e-12 · 1.1^k up to 1e20, mirrored, with 0 and the largest double.
const std::vector<double>& default_limits() {
  static const std::vector<double> limits = [] {
    std::vector<double> positive, all;
    for (double v = 1e-12; v < 1e20; v *= 1.1) positive.push_back(v);
    positive.push_back(std::numeric_limits<double>::max());
    for (auto it = positive.rbegin(); it != positive.rend(); ++it) all.push_back(-*it);
    all.push_back(0);
    all.insert(all.end(), positive.begin(), positive.end());
    return all;
  }();
  return limits;
}

std::optional<uint64_t> read_varint(std::string_view data, size_t& at) {
  uint64_t value = 0;
  for (int shift = 0; at < data.size() && shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(data[at++]);
    value |= uint64_t(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  return {};
}

// Event.step (field 2); 0 when absent, as in the first event, which holds the version.
std::optional<int64_t> step_of_event(std::string_view data) {
  for (size_t at = 0; at < data.size();) {
    const auto tag = read_varint(data, at);
    if (!tag) return {};
    const int type = int(*tag & 7);
    if (type == 0) {
      const auto value = read_varint(data, at);
      if (!value) return {};
      if (*tag >> 3 == 2) return int64_t(*value);
    } else if (type == 1 || type == 5) {
      at += type == 1 ? 8 : 4;
    } else if (type == 2) {
      const auto size = read_varint(data, at);
      if (!size || *size > data.size() - at) return {};
      at += *size;
    } else {
      return {};
    }
  }
  return 0;
}

// The leading whole records of an event file whose steps do not pass `last_step`.
std::string kept_records(const std::string& old, int64_t last_step) {
  std::string kept;
  for (size_t at = 0; old.size() - at >= 16;) {
    uint64_t size;
    std::memcpy(&size, old.data() + at, 8);
    if (size > old.size() - at - 16) break;
    const std::string_view data = std::string_view(old).substr(at + 12, size);
    const std::string again = record(std::string(data));
    if (std::string_view(old).substr(at, again.size()) != again) break;  // torn or foreign
    const auto step = step_of_event(data);
    if (step && *step <= last_step) kept += again;
    at += again.size();
  }
  return kept;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? 0x82f63b78u : 0);
      t[i] = c;
    }
    return t;
  }();
  uint32_t crc = ~0u;
  for (char byte : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  return ~crc;
}

HyperParameters hyperparameters(const RunConfig& c) {
  HyperParameters h;
  h.group = c.config;
  h.values = {{"config", c.config},   {"seed", c.seed},           {"router", c.router},
              {"balance", c.balance}, {"energy", c.energy},       {"protocol", c.protocol},
              {"preset", c.preset},   {"precision", c.precision}, {"data", c.data.name}};
  for (const Json* part : {&c.model, &c.train, &c.options})
    for (const auto& [name, value] : part->items())
      if (value.is_primitive() && !value.is_null()) h.values[name] = value;
  return h;
}

TensorBoardWriter::TensorBoardWriter(const std::string& folder, double wall_time, int64_t resume_step,
                                     const HyperParameters& parameters)
    : path_(folder + "/events.out.tfevents.glia"), wall_time_(wall_time) {
  std::string start;
  if (resume_step > 0 && std::filesystem::exists(path_)) start = kept_records(read_file(path_), resume_step);
  // Event { wall_time = 1 (double), step = 2, file_version = 3, summary = 5 }
  if (start.empty()) {
    start = record(field_double(1, wall_time) + field_bytes(3, "brain.Event:2"));
    if (!parameters.values.empty())
      start += record(field_double(1, wall_time) + field_bytes(5, session_summary(parameters, wall_time)));
  }
  write_file_atomic(path_, start);
  file_ = std::fopen(path_.c_str(), "ab");
  if (!file_) fail_input("{}: cannot open it for writing: {}", path_, std::strerror(errno));
}

TensorBoardWriter::~TensorBoardWriter() {
  if (file_) std::fclose(file_);
}

void TensorBoardWriter::event(int64_t step, const std::string& summary) {
  const std::string out = record(field_double(1, wall_time_) + field_int(2, step) + field_bytes(5, summary));
  if (std::fwrite(out.data(), 1, out.size(), file_) != out.size())
    fail_input("{}: cannot write to it: {}", path_, std::strerror(errno));
}

void TensorBoardWriter::flush() {
  if (std::fflush(file_) != 0) fail_input("{}: cannot write to it: {}", path_, std::strerror(errno));
}

void TensorBoardWriter::scalar(const std::string& tag, int64_t step, double value) {
  event(step, scalar_summary(tag, value));
}

void TensorBoardWriter::histogram(const std::string& tag, int64_t step, const std::vector<double>& values) {
  const std::vector<double>& limits = default_limits();
  std::vector<double> counts(limits.size());
  HistogramProto h;
  h.min = std::numeric_limits<double>::max(), h.max = -h.min;
  size_t first = limits.size(), last = 0;
  for (double value : values) {
    if (!std::isfinite(value)) continue;
    const size_t bucket = size_t(std::lower_bound(limits.begin(), limits.end(), value) - limits.begin());
    counts[bucket] += 1;
    first = std::min(first, bucket), last = std::max(last, bucket);
    h.min = std::min(h.min, value), h.max = std::max(h.max, value);
    h.num += 1, h.sum += value, h.sum_squares += value * value;
  }
  if (h.num == 0) return;
  // One empty bucket before the first gives it a left end.
  first = first > 0 ? first - 1 : 0;
  h.limits.assign(limits.begin() + long(first), limits.begin() + long(last) + 1);
  h.counts.assign(counts.begin() + long(first), counts.begin() + long(last) + 1);
  event(step, histogram_summary(tag, h));
}

void TensorBoardWriter::bars(const std::string& tag, int64_t step, const std::vector<double>& weights) {
  if (weights.empty()) return;
  HistogramProto h;
  h.min = -0.5, h.max = double(weights.size()) - 0.5;
  h.limits.push_back(-0.5), h.counts.push_back(0);  // the left end of expert 0
  for (size_t i = 0; i < weights.size(); ++i) {
    h.limits.push_back(double(i) + 0.5), h.counts.push_back(weights[i]);
    h.num += weights[i], h.sum += weights[i] * double(i), h.sum_squares += weights[i] * double(i) * double(i);
  }
  event(step, histogram_summary(tag, h));
}

void TensorBoardWriter::add(const TrainPoint& p) {
  std::string summary;
  for (const MetricRow* row : metric_rows(Stage::step))
    summary += scalar_summary(std::string("train/") + row->name, p.values.get(row->name, 0));
  for (const auto& [name, value] : p.values)
    if (!metric_row(Stage::step, name)) summary += scalar_summary("train/" + name, value);
  event(p.step, summary);
}

void TensorBoardWriter::add(const EvalPoint& p) {
  std::string summary;
  for (const auto& [name, value] : p.values) summary += scalar_summary(p.split + "/" + name, value);
  const auto each = [&](Form form, const auto& act) {
    for (size_t l = 0; l < p.layers.size(); ++l)
      for (const MetricRow* row : metric_rows(Stage::routing))
        if (const std::vector<double>& values = p.layers[l][row->name].values;
            row->logged > 0 && row->form == form && !values.empty())
          act(fmt::format("layer{}/{}", l + 1, row->name), values);
  };
  each(Form::scalar, [&](const std::string& tag, const auto& v) { summary += scalar_summary(tag, v[0]); });
  event(p.step, summary);
  each(Form::vector, [&](const std::string& tag, const auto& v) { bars(tag, p.step, v); });
  flush();
}

}  // namespace glia::results

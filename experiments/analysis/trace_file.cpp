#include "experiments/analysis/trace_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/message.h"
#include "engine/core/parallel.h"

namespace glia::results {
namespace {

constexpr int kMostExperts = 4096;      // counts of pairs of experts stay below a gigabyte
constexpr int64_t kMostIds = 16 << 20;  // a table of all ids
constexpr const char* kForms =
    "experts int32 or int64 [N, L, K] and gates float32 [N, L, K], or logits float32 [N, L, E]";

std::string text_of(const RawTensor& t) { return fmt::format("{} {}", t.dtype, t.shape); }

// Element i, wherever it lies: a file's tensors need no alignment.
template <class T> T element(const RawTensor& t, int64_t i) {
  T value;
  std::memcpy(&value, t.bytes.data() + i * int64_t{sizeof(T)}, sizeof(T));
  return value;
}

int64_t integer(const RawTensor& t, int64_t i) {
  return t.dtype == "I64" ? element<int64_t>(t, i) : element<int32_t>(t, i);
}

// The bytes of the elements from … to.
std::string_view part_of(const RawTensor& t, int64_t from, int64_t to) {
  const size_t size = t.dtype == "I64" ? 8 : 4;
  return t.bytes.substr(size_t(from) * size, size_t(to - from) * size);
}

}  // namespace

// Read-only. Pages that were read can be given back, so that a long file does not fill memory.
struct TraceFile::Mapping {
  const char* data = nullptr;
  size_t size = 0;

  explicit Mapping(const std::string& path) {
    const int file = open_to_read(path);
    struct stat info = {};
    if (::fstat(file, &info) != 0) fail_input("{}: cannot be read: {}", path, std::strerror(errno));
    size = static_cast<size_t>(info.st_size);
    void* at =
        S_ISREG(info.st_mode) && size > 0 ? ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
    ::close(file);
    if (!S_ISREG(info.st_mode)) fail_input("{}: expected a trace, got what is no file", path);
    if (size > 0 && at == MAP_FAILED) fail_input("{}: cannot be mapped: {}", path, std::strerror(errno));
    if (size > 0) data = static_cast<const char*>(at);
  }
  ~Mapping() {
    if (data) ::munmap(const_cast<char*>(data), size);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::string_view view() const { return {data, size}; }
  void give_back(std::string_view part) const {
    const size_t page = 4096, begin = static_cast<size_t>(part.data() - data) / page * page;
    const size_t end = static_cast<size_t>(part.data() + part.size() - data) / page * page;
    if (end > begin) ::madvise(const_cast<char*>(data) + begin, end - begin, MADV_DONTNEED);
  }
};

struct TraceFile::Buffers {
  std::vector<int32_t> experts, topic, word;
  std::vector<float> gates, entropy;
  std::vector<uint8_t> first;
};

TraceFile::TraceFile(const std::string& path) : path_(path), mapping_(std::make_unique<Mapping>(path)) {
  header_ = read_safetensors(mapping_->view(), path_);
  mapping_->give_back(mapping_->view());  // a checksum read all of it
  read_choices();
  read_sequences();
  read_words();
  read_names();
}

TraceFile::~TraceFile() = default;

const RawTensor& TraceFile::entry(const std::string& name, std::initializer_list<const char*> dtypes,
                                  int rank) const {
  const RawTensor& t = header_.tensors.at(name);
  const std::vector<std::string> known(dtypes.begin(), dtypes.end());
  if (std::ranges::find(known, t.dtype) == known.end() || t.shape.rank() != rank)
    fail_input("{}: '{}': expected {} of {} dimension{}, got {}", path_, name, fmt::join(known, " or "), rank,
               rank == 1 ? "" : "s", text_of(t));
  return t;
}

std::vector<int64_t> TraceFile::integers(const std::string& name) const {
  const RawTensor& t = entry(name, {"I32", "I64"}, 1);
  std::vector<int64_t> values(static_cast<size_t>(t.shape[0]));
  for (size_t i = 0; i < values.size(); ++i) values[i] = integer(t, int64_t(i));
  mapping_->give_back(t.bytes);
  return values;
}

void TraceFile::read_choices() {
  const bool chosen = header_.tensors.contains("experts"), raw = header_.tensors.contains("logits");
  if (chosen == raw)
    fail_input("{}: expected {}; got {}", path_, kForms, chosen ? "both experts and logits" : "neither");
  const auto number = [&](const char* key) -> int64_t {
    const auto it = header_.metadata.find(key);
    if (it == header_.metadata.end()) return -1;
    char* end = nullptr;
    const long long value = std::strtoll(it->second.c_str(), &end, 10);
    if (it->second.empty() || *end != 0 || value < 1)
      fail_input("{}: metadata \"{}\": expected a whole number above 0, got \"{}\"", path_, key, it->second);
    return value;
  };
  int64_t slots, experts = number("n_experts");
  if (chosen) {
    experts_ = entry("experts", {"I32", "I64"}, 3);
    if (!header_.tensors.contains("gates")) fail_input("{}: expected {}; got experts without gates", path_, kForms);
    gates_ = entry("gates", {"F32"}, 3);
    if (gates_->shape != experts_->shape)
      fail_input("{}: expected gates of the experts' shape {}, got {}", path_, experts_->shape, gates_->shape);
    slots = experts_->shape[2];
  } else {
    logits_ = entry("logits", {"F32"}, 3);
    slots = number("top_k");
    if (slots < 0) fail_input("{}: expected \"top_k\" in the metadata, beside logits", path_);
    if (experts >= 0 && experts != logits_->shape[2])
      fail_input("{}: metadata \"n_experts\": expected the logits' last extent {}, got {}", path_,
                 logits_->shape[2], experts);
    experts = logits_->shape[2];
    if (slots > experts)
      fail_input("{}: metadata \"top_k\": expected 1 … {} experts, got {}", path_, experts, slots);
    const auto gates = header_.metadata.find("gates");
    over_all_ = gates != header_.metadata.end() && gates->second == "probabilities";
    if (gates != header_.metadata.end() && !over_all_ && gates->second != "softmax")
      fail_input("{}: metadata \"gates\": expected softmax or probabilities, got \"{}\"", path_, gates->second);
  }
  const Shape& shape = (chosen ? *experts_ : *logits_).shape;
  tokens_ = shape[0];
  if (shape.numel() == 0) fail_input("{}: expected at least one token, layer and expert, got {}", path_, shape);
  if (shape[1] > 1024 || slots > 1024 || experts > kMostExperts)
    fail_input("{}: expected at most 1024 layers, 1024 experts a token and {} experts, got {}, {} and {}", path_,
               kMostExperts, shape[1], slots, experts);
  layers_ = int(shape[1]), slots_ = int(slots);
  n_experts_ = experts > 0 ? int(experts) : largest_expert() + 1;
}

// Of a file that does not say how many experts there are.
int TraceFile::largest_expert() const {
  int64_t largest = 0;
  const int64_t row = int64_t{layers_} * slots_;
  for (int64_t begin = 0; begin < tokens_; begin += kChunk) {
    const int64_t end = std::min(tokens_, begin + kChunk);
    for (int64_t i = begin * row; i < end * row; ++i) largest = std::max(largest, integer(*experts_, i));
    mapping_->give_back(part_of(*experts_, begin * row, end * row));
  }
  if (largest >= kMostExperts)
    fail_input("{}: 'experts': expected ids below {}, got {}", path_, kMostExperts, largest);
  return int(largest);
}

void TraceFile::read_sequences() {
  if (header_.tensors.contains("offsets")) {
    offsets_ = integers("offsets");
    if (offsets_.size() < 2 || offsets_.front() != 0 || offsets_.back() != tokens_)
      fail_input("{}: 'offsets': expected [B + 1] from 0 to the {} tokens, got {} from {} to {}", path_, tokens_,
                 offsets_.size(), offsets_.empty() ? 0 : offsets_.front(), offsets_.empty() ? 0 : offsets_.back());
    for (size_t b = 1; b < offsets_.size(); ++b)
      if (offsets_[b] <= offsets_[b - 1])
        fail_input("{}: 'offsets': expected them to increase, got {} behind {} at sequence {}", path_, offsets_[b],
                   offsets_[b - 1], b - 1);
  }
  if (!header_.tensors.contains("labels")) return;
  const std::vector<int64_t> labels = integers("labels");
  if (int64_t(labels.size()) != sequences())
    fail_input("{}: 'labels': expected one a sequence of 'offsets' ({}), got {}", path_, sequences(),
               labels.size());
  for (size_t b = 0; b < labels.size(); ++b) {
    if (labels[b] < 0 || labels[b] >= 100'000)
      fail_input("{}: 'labels': expected 0 … 99999, got {} at sequence {}", path_, labels[b], b);
    labels_.push_back(int32_t(labels[b]));
    topics_ = std::max(topics_, labels_.back() + 1);
  }
}

void TraceFile::read_words() {
  if (!header_.tensors.contains("ids")) return;
  const std::vector<int64_t> ids = integers("ids");
  if (int64_t(ids.size()) != tokens_)
    fail_input("{}: 'ids': expected one a token ({}), got {}", path_, tokens_, ids.size());
  for (size_t n = 0; n < ids.size(); ++n) {
    if (ids[n] < 0 || ids[n] >= kMostIds)
      fail_input("{}: 'ids': expected 0 … {}, got {} at token {}", path_, kMostIds - 1, ids[n], n);
    if (size_t(ids[n]) >= row_of_id_.size()) row_of_id_.resize(size_t(ids[n]) + 1, -1);
    int32_t& row = row_of_id_[size_t(ids[n])];
    if (row >= 0) continue;
    row = int32_t(word_ids_.size());
    word_ids_.push_back(int32_t(ids[n]));
  }
}

void TraceFile::read_names() {
  const auto title = header_.metadata.find("title");
  title_ = one_line(title != header_.metadata.end() ? title->second : std::filesystem::path(path_).stem().string());
  if (const auto names = header_.metadata.find("topics"); names != header_.metadata.end()) {
    const auto json = nlohmann::json::parse(names->second, nullptr, false);
    if (!json.is_array() || !std::ranges::all_of(json, [](const auto& name) { return name.is_string(); }))
      fail_input("{}: metadata \"topics\": expected a JSON list of names, got {}", path_, names->second);
    for (const auto& name : json) topic_names_.push_back(one_line(name.template get<std::string>()));
    if (int(topic_names_.size()) < topics_)
      fail_input("{}: metadata \"topics\": expected {} names, as 'labels' says, got {}", path_, topics_,
                 topic_names_.size());
    topics_ = std::max(topics_, int(topic_names_.size()));
  }
  for (int c = int(topic_names_.size()); c < topics_; ++c)
    topic_names_.push_back(labels_.empty() ? "all tokens" : fmt::format("topic {}", c));
}

namespace {

// A token's slots by descending gate, the earlier one on a tie, empty ones last: a file may have them in any order, and
// the first is a token's first choice.
void order_slots(int32_t* experts, float* gates, int slots) {
  const auto key = [](int32_t expert, float gate) {
    return expert == -1 ? -std::numeric_limits<float>::infinity() : gate;
  };
  for (int i = 1; i < slots; ++i)
    for (int k = i; k > 0 && key(experts[k - 1], gates[k - 1]) < key(experts[k], gates[k]); --k)
      std::swap(experts[k - 1], experts[k]), std::swap(gates[k - 1], gates[k]);
}

// The K largest of a row (the lower index on a tie), the softmax over them or over all, and the entropy in bits of the
// softmax over all.
struct Chooser {
  const TraceFile& file;
  bool over_all;
  std::vector<float> row;
  std::vector<char> taken;

  Chooser(const TraceFile& file, bool over_all)
      : file(file), over_all(over_all), row(size_t(file.n_experts())), taken(row.size()) {}

  float operator()(int64_t token, int layer, int32_t* experts, float* gates) {
    double largest = -std::numeric_limits<double>::infinity(), sum = 0, weighted = 0, chosen = 0;
    for (size_t e = 0; e < row.size(); ++e) {
      if (!std::isfinite(row[e]))
        fail_input("{}: 'logits': token {}, layer {}, expert {}: expected a number, got {}", file.path(), token,
                   layer + 1, e, row[e]);
      largest = std::max(largest, double(row[e]));
    }
    for (const float logit : row) {
      const double p = std::exp(double(logit) - largest);
      sum += p, weighted += p * (double(logit) - largest);
    }
    std::ranges::fill(taken, 0);
    for (int k = 0; k < file.slots(); ++k) {
      int best = -1;
      for (size_t e = 0; e < row.size(); ++e)
        if (!taken[e] && (best < 0 || row[e] > row[size_t(best)])) best = int(e);
      taken[size_t(best)] = 1;
      experts[k] = best;
      chosen += std::exp(double(row[size_t(best)]) - largest);
    }
    for (int k = 0; k < file.slots(); ++k)
      gates[k] = float(std::exp(double(row[size_t(experts[k])]) - largest) / (over_all ? sum : chosen));
    return float(std::max(0.0, (std::log(sum) - weighted / sum) / std::log(2.0)));
  }
};

}  // namespace

void TraceFile::read_chosen(Buffers& b, int64_t begin, int64_t count) const {
  const int64_t row = int64_t{layers_} * slots_, first = begin * row;
  for (int64_t i = 0; i < count * row; ++i) {
    const int64_t token = begin + i / row, layer = i % row / slots_ + 1, expert = integer(*experts_, first + i);
    const float gate = element<float>(*gates_, first + i);
    if (expert < -1 || expert >= n_experts_)
      fail_input("{}: 'experts': token {}, layer {}: expected one of 0 … {}, or -1 for nobody, got {}", path_,
                 token, layer, n_experts_ - 1, expert);
    if (!(gate >= 0) || !std::isfinite(gate))
      fail_input("{}: 'gates': token {}, layer {}, expert {}: expected a number of 0 or more, got {}", path_, token,
                 layer, expert, gate);
    // What nobody has counts nowhere: such a file means something else than what would be said of it.
    if (expert == -1 && gate > 0)
      fail_input("{}: 'gates': token {}, layer {}: expected 0 where 'experts' has -1, nobody, got {}", path_, token,
                 layer, gate);
    for (int64_t k = i / slots_ * slots_; k < i; ++k)
      if (expert >= 0 && b.experts[size_t(k)] == expert)
        fail_input("{}: 'experts': token {}, layer {}: expected each expert once, got {} twice", path_, token,
                   layer, expert);
    b.experts[size_t(i)] = int32_t(expert), b.gates[size_t(i)] = gate;
  }
  mapping_->give_back(part_of(*experts_, first, first + count * row));
  mapping_->give_back(part_of(*gates_, first, first + count * row));
  for (int64_t n = 0; n < count * layers_; ++n)
    order_slots(b.experts.data() + n * slots_, b.gates.data() + n * slots_, slots_);
}

void TraceFile::choose(Buffers& b, int64_t begin, int64_t count) const {
  const size_t row = size_t(layers_) * size_t(slots_), bytes = size_t(n_experts_) * sizeof(float);
  b.entropy.resize(size_t(count) * size_t(layers_));
  std::string error;  // an exception may not leave a parallel loop
  parallel_for(count, 256, [&](int64_t from, int64_t to) {
    try {
      Chooser choose_row(*this, over_all_);
      for (int64_t n = from; n < to; ++n)
        for (int l = 0; l < layers_; ++l) {
          const size_t at = size_t((begin + n) * layers_ + l) * bytes, out = size_t(n) * row + size_t(l * slots_);
          std::memcpy(choose_row.row.data(), logits_->bytes.data() + at, bytes);
          b.entropy[size_t(n * layers_ + l)] =
              choose_row(begin + n, l, b.experts.data() + out, b.gates.data() + out);
        }
    } catch (const Error& e) {
#pragma omp critical(trace_error)
      if (error.empty()) error = e.what();
    }
  });
  if (!error.empty()) fail_input("{}", error);
  mapping_->give_back(logits_->bytes.substr(size_t(begin * layers_) * bytes, size_t(count * layers_) * bytes));
}

void TraceFile::for_each_chunk(const std::function<void(const TokenTrace&)>& f) const {
  Buffers b;
  const size_t row = size_t(layers_) * size_t(slots_);
  int64_t sequence = 0;
  for (int64_t begin = 0; begin < tokens_; begin += kChunk) {
    const int64_t count = std::min(kChunk, tokens_ - begin);
    b.experts.resize(size_t(count) * row), b.gates.resize(size_t(count) * row);
    if (logits_) choose(b, begin, count);
    else read_chosen(b, begin, count);
    TokenTrace chunk;
    chunk.tokens = count, chunk.begin = begin;
    chunk.layers = layers_, chunk.slots = slots_, chunk.n_experts = n_experts_, chunk.topics = topics_;
    chunk.experts = b.experts, chunk.gates = b.gates;
    if (logits_) chunk.entropy = b.entropy;
    if (!offsets_.empty()) {
      b.first.assign(size_t(count), 0);
      b.topic.assign(labels_.empty() ? 0 : size_t(count), 0);
      for (int64_t n = begin; n < begin + count; ++n) {
        while (n >= offsets_[size_t(sequence) + 1]) ++sequence;
        b.first[size_t(n - begin)] = n == offsets_[size_t(sequence)];
        if (!labels_.empty()) b.topic[size_t(n - begin)] = labels_[size_t(sequence)];
      }
      chunk.first = b.first, chunk.topic = b.topic;
    }
    if (!word_ids_.empty()) {
      const RawTensor& ids = header_.tensors.at("ids");
      b.word.resize(size_t(count));
      for (int64_t n = 0; n < count; ++n) b.word[size_t(n)] = row_of_id_[size_t(integer(ids, begin + n))];
      chunk.word = b.word;
    }
    f(chunk);
  }
}

}  // namespace glia::results

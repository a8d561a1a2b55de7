// The routing of a model as one safetensors file, ours or anybody's (docs/analysis.md):
//
//   experts int32/int64 [N, L, K], −1: nobody, and gates float32 [N, L, K] >= 0, 0 of nobody; by descending gate when they are read
//   or logits float32 [N, L, E], with "top_k" in the metadata: the K largest are the experts (lower index on a tie),
//     their gates the softmax over the K, or with "gates" = "probabilities" over all E
//   ids int32/int64 [N]: the tokens           offsets int32/int64 [B + 1]: where sequences begin, 0 … N, increasing
//   labels int32/int64 [B]: the sequences' topics; wants offsets
//   metadata: "n_experts" (without it the largest expert says), "topics" (a JSON list of names), "title"
//
// A file is mapped and read in chunks, so that it may be larger than memory.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "experiments/records/routing/routing_counts.h"
#include "nn/weights/safetensors_header.h"

namespace glia::results {

class TraceFile {
 public:
  // Checks header, types, shapes, ids, offsets and labels. Every error names the file, and what was expected.
  explicit TraceFile(const std::string& path);
  ~TraceFile();
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;

  const std::string& path() const { return path_; }
  const std::string& title() const { return title_; }  // the metadata's, else the file's name
  int64_t tokens() const { return tokens_; }
  int64_t sequences() const { return std::max<int64_t>(0, int64_t(offsets_.size()) - 1); }  // 0: not known
  int layers() const { return layers_; }
  int slots() const { return slots_; }
  int n_experts() const { return n_experts_; }
  int topics() const { return topics_; }  // 1 without labels
  bool has_logits() const { return logits_.has_value(); }
  const std::vector<std::string>& topic_names() const { return topic_names_; }  // [C]
  const std::vector<int64_t>& offsets() const { return offsets_; }              // [B + 1]; empty: not known
  const std::vector<int32_t>& labels() const { return labels_; }                // [B]; empty: not known
  const std::vector<int32_t>& word_ids() const {
    return word_ids_;
  }  // [V] ids by order of appearance; empty: not known

  // All tokens in order, at most kChunk at a time; what the spans show lives until the next call. Errors name the file, the
  // tensor, the token (from 0) and the layer (from 1, as tables do): an expert that does not exist or stands twice, a gate
  // that is negative or no number or is nobody's and not 0, a logit that is no number.
  static constexpr int64_t kChunk = 4096;
  void for_each_chunk(const std::function<void(const TokenTrace&)>& f) const;

 private:
  struct Mapping;
  struct Buffers;
  const RawTensor& entry(const std::string& name, std::initializer_list<const char*> dtypes, int rank) const;
  std::vector<int64_t> integers(const std::string& name) const;
  void read_choices();
  void read_sequences();
  void read_words();
  void read_names();
  int largest_expert() const;
  void read_chosen(Buffers& buffers, int64_t begin, int64_t count) const;
  void choose(Buffers& buffers, int64_t begin, int64_t count) const;

  std::string path_, title_;
  std::unique_ptr<Mapping> mapping_;
  SafetensorsHeader header_;
  std::optional<RawTensor> experts_, gates_, logits_;
  bool over_all_ = false;  // gates of logits: softmax over all experts, not over the chosen
  int64_t tokens_ = 0;
  int layers_ = 0, slots_ = 0, n_experts_ = 0, topics_ = 1;
  std::vector<std::string> topic_names_;
  std::vector<int64_t> offsets_;
  std::vector<int32_t> labels_, word_ids_, row_of_id_;
};

// A trace in memory, to be written.
struct TraceContent {
  std::string title;
  int64_t tokens = 0;
  int layers = 0, slots = 0, n_experts = 0;
  std::vector<int32_t> experts;     // [N, L, K]
  std::vector<float> gates;         // [N, L, K]
  std::vector<int32_t> ids;         // [N] or empty
  std::vector<int32_t> offsets;     // [B + 1] or empty
  std::vector<int32_t> labels;      // [B] or empty
  std::vector<std::string> topics;  // [C] or empty
};
void write_trace(const std::string& path, const TraceContent& trace);

}  // namespace glia::results

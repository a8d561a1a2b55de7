#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "data/datasets/datasets.h"
#include "data/token_cache.h"
#include "data/vocab_trainer.h"
#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/parallel.h"
#include "engine/core/rng.h"

namespace glia {
namespace {

constexpr uint64_t kTokenizerVersion = 1;  // to be raised when the tokenizer's or a loader's output changes

std::string find_vocabulary(const DatasetOptions& options, bool is_synthetic) {
  if (!options.vocab.empty()) return options.vocab;
  if (is_synthetic) return "";  // made-up words want pieces of their own
  const std::filesystem::path dir = datasets::ag_news_dir(options);
  for (const std::filesystem::path& path : {dir / "vocab.txt", dir / ".." / "vocab.txt"})
    if (std::filesystem::is_regular_file(path)) return path.string();
  return "";
}

TokenSplit select_rows(const TokenSplit& from, const std::vector<int64_t>& rows) {
  TokenSplit split;
  for (const int64_t row : rows) split.append(from, row);
  return split;
}

CachedTokens make_tokens(const DatasetRow& row, const DatasetOptions& options, const std::string& vocab_path,
                         std::shared_ptr<const WordPiece>& tokenizer, BadRows& bad_rows) {
  const TextDataset text = row.load(options, bad_rows);
  CachedTokens tokens;
  if (vocab_path.empty()) {
    VocabTrainer trainer(options.lowercase);
    for (const std::string& t : text.train.texts) trainer.add(t);
    tokens.vocabulary = trainer.train({.size = options.trained_vocab_size});
    tokenizer = std::make_shared<WordPiece>(Vocabulary::from_tokens(tokens.vocabulary, "trained vocabulary"),
                                            options.lowercase);
  }
  tokens.class_names = text.class_names;
  tokens.source = text.source;
  tokens.is_synthetic = text.is_synthetic;
  tokens.bayes_accuracy = text.bayes_accuracy;
  tokens.train = tokenize_split(text.train, *tokenizer, options.max_length);
  tokens.test = tokenize_split(text.test, *tokenizer, options.max_length);
  return tokens;
}

}  // namespace

void TokenSplit::append(const TokenSplit& from, int64_t row) {
  ids.insert(ids.end(), from.ids.begin() + from.offsets[row], from.ids.begin() + from.offsets[row + 1]);
  offsets.push_back(static_cast<int64_t>(ids.size()));
  labels.push_back(from.labels[row]);
}

TokenSplit tokenize_split(const TextSplit& texts, const WordPiece& tokenizer, int64_t max_length) {
  CHECK(max_length >= 3, "tokenize: wants a length of at least 3, got {}", max_length);
  CHECK(texts.texts.size() == texts.labels.size(), "tokenize: {} texts, {} labels", texts.texts.size(),
        texts.labels.size());
  constexpr int64_t kChunk = 1024;
  struct Part {
    std::vector<int32_t> ids;
    std::vector<int64_t> lengths;
    int64_t cut = 0;
  };
  const auto rows = static_cast<int64_t>(texts.texts.size());
  std::vector<Part> parts(static_cast<size_t>((rows + kChunk - 1) / kChunk));
  parallel_for(rows, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      Part& part = parts[static_cast<size_t>(row / kChunk)];
      const size_t before = part.ids.size();
      part.cut += tokenizer.encode_sequence(texts.texts[static_cast<size_t>(row)], max_length, part.ids);
      part.lengths.push_back(static_cast<int64_t>(part.ids.size() - before));
    }
  });
  TokenSplit split;
  size_t total = 0;
  for (const Part& part : parts) total += part.ids.size();
  split.ids.reserve(total);
  split.offsets.reserve(texts.texts.size() + 1);
  for (const Part& part : parts) {
    split.ids.insert(split.ids.end(), part.ids.begin(), part.ids.end());
    for (const int64_t length : part.lengths) split.offsets.push_back(split.offsets.back() + length);
    split.cut += part.cut;
  }
  split.labels = texts.labels;
  return split;
}

SplitRows stratified_split(const std::vector<int32_t>& labels, double fraction, uint64_t seed) {
  CHECK(fraction >= 0 && fraction < 1, "stratified split: wants a fraction in [0, 1), got {}", fraction);
  std::vector<std::vector<int64_t>> by_class;
  for (size_t row = 0; row < labels.size(); ++row) {
    CHECK(labels[row] >= 0, "stratified split: wants labels from 0, got {}", labels[row]);
    if (static_cast<size_t>(labels[row]) >= by_class.size()) by_class.resize(static_cast<size_t>(labels[row]) + 1);
    by_class[static_cast<size_t>(labels[row])].push_back(static_cast<int64_t>(row));
  }
  std::vector<uint8_t> held(labels.size(), 0);
  for (size_t c = 0; c < by_class.size(); ++c) {
    const auto rows = static_cast<int64_t>(by_class[c].size());
    int64_t take = std::llround(fraction * static_cast<double>(rows));
    if (fraction > 0 && take == 0 && rows >= 2) take = 1;
    // One order a class: adding rows of one class does not move those of another.
    const std::vector<int32_t> order = random_permutation(rows, seed, purpose::kSplit, static_cast<uint32_t>(c));
    for (int64_t i = 0; i < take; ++i)
      held[static_cast<size_t>(by_class[c][static_cast<size_t>(order[static_cast<size_t>(i)])])] = 1;
  }
  SplitRows split;
  for (size_t row = 0; row < labels.size(); ++row)
    (held[row] ? split.held_out : split.kept).push_back(static_cast<int64_t>(row));
  return split;
}

Dataset load_dataset(const DatasetOptions& options) {
  std::string name = options.name;
  if (name == "auto") {
    // A folder that was asked for and holds nothing is a mistake to report, not a reason to generate text.
    name = datasets::ag_news_is_there(options) || !options.data_dir.empty() ? "ag_news" : "synthetic";
  }
  const DatasetRow& row = find_dataset(name);
  Dataset data;
  data.name = row.name;
  data.max_length = options.max_length;
  data.bad_rows = BadRows(options.skip_bad_rows);

  const std::string vocab_path = find_vocabulary(options, name == "synthetic");
  uint64_t vocab_key = hash_bytes("trained", static_cast<uint64_t>(options.trained_vocab_size));
  if (!vocab_path.empty()) {
    data.tokenizer = std::make_shared<WordPiece>(Vocabulary::from_file(vocab_path), options.lowercase);
    vocab_key = data.vocabulary().hash();
  }
  const std::string rest =
      fmt::format("{}|{}|{}|{}", options.lowercase, options.max_length, options.skip_bad_rows, kTokenizerVersion);
  const uint64_t key =
      hash_bytes(rest, hash_bytes(name, row.content_key(options) ^ vocab_key * 0x9E3779B97F4A7C15ull));

  std::optional<CachedTokens> tokens;
  if (!options.cache_dir.empty()) tokens = read_token_cache(options.cache_dir, name, key);
  data.from_cache = tokens.has_value();
  if (!tokens) {
    tokens = make_tokens(row, options, vocab_path, data.tokenizer, data.bad_rows);
    // Rows that were skipped are reported at each load, so such ids are not cached.
    if (!options.cache_dir.empty() && data.bad_rows.count() == 0)
      write_token_cache(options.cache_dir, name, key, *tokens);
  } else if (vocab_path.empty()) {
    data.tokenizer = std::make_shared<WordPiece>(Vocabulary::from_tokens(tokens->vocabulary, "trained vocabulary"),
                                                 options.lowercase);
  }
  data.source = tokens->source;
  data.is_synthetic = tokens->is_synthetic;
  data.bayes_accuracy = tokens->bayes_accuracy;
  data.class_names = std::move(tokens->class_names);
  const SplitRows rows = stratified_split(tokens->train.labels, options.validation_fraction, options.split_seed);
  data.train = select_rows(tokens->train, rows.kept);
  data.validation = select_rows(tokens->train, rows.held_out);
  data.test = std::move(tokens->test);
  return data;
}

}  // namespace glia

#include "data/datasets/dataset.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "data/datasets/datasets.h"
#include "data/tokens/token_cache.h"
#include "data/tokens/vocab_trainer.h"
#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/parallel.h"
#include "engine/core/rng.h"

namespace glia {
namespace {

constexpr uint64_t kTokenizerVersion = 1;  // to be raised when the tokenizer's or a loader's output changes

constexpr const char* kTrained = "trained on the train texts";

// Made-up words want pieces of their own, unless the user says otherwise.
std::string vocabulary_path(const DatasetOptions& options, bool is_synthetic) {
  return is_synthetic ? options.vocab : find_vocabulary(options);
}

TokenSplit select_rows(const TokenSplit& from, const std::vector<int64_t>& rows) {
  TokenSplit split;
  for (const int64_t row : rows) split.append(from, row);
  return split;
}

}  // namespace

std::string find_vocabulary(const DatasetOptions& options) {
  if (!options.vocab.empty()) return options.vocab;
  const std::filesystem::path dir = datasets::ag_news_dir(options);
  for (const std::filesystem::path& path : {dir / "vocab.txt", dir / ".." / "vocab.txt"})
    if (std::filesystem::is_regular_file(path)) return path.string();
  return "";
}

std::string dataset_name(const DatasetOptions& options) {
  if (options.name != "auto") return options.name;
  // A folder that was asked for and holds nothing is a mistake to report, not a reason to generate text.
  return datasets::ag_news_is_there(options) || !options.data_dir.empty() ? "ag_news" : "synthetic";
}

WordPiece tokenizer_for(const DatasetOptions& options, const TextDataset& data) {
  const std::string path = vocabulary_path(options, data.is_synthetic);
  if (!path.empty()) return WordPiece(Vocabulary::from_file(path), options.lowercase);
  VocabTrainer trainer(options.lowercase);
  for (const std::string& text : data.train.texts) trainer.add(text);
  return WordPiece(Vocabulary::from_tokens(trainer.train({.size = options.trained_vocab_size}), kTrained),
                   options.lowercase);
}

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
  };
  const auto rows = static_cast<int64_t>(texts.texts.size());
  std::vector<Part> parts(static_cast<size_t>((rows + kChunk - 1) / kChunk));
  parallel_for(rows, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      Part& part = parts[static_cast<size_t>(row / kChunk)];
      const size_t before = part.ids.size();
      tokenizer.encode_sequence(texts.texts[static_cast<size_t>(row)], max_length, part.ids);
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
  const DatasetRow& row = find_dataset(dataset_name(options));
  Dataset data;
  data.name = row.name;
  data.max_length = options.max_length;
  data.bad_rows = BadRows(options.skip_bad_rows);

  const std::string vocab_path = vocabulary_path(options, data.name == "synthetic");
  uint64_t vocab_key = hash_bytes("trained", static_cast<uint64_t>(options.trained_vocab_size));
  if (!vocab_path.empty()) {
    data.tokenizer = std::make_shared<WordPiece>(Vocabulary::from_file(vocab_path), options.lowercase);
    vocab_key = data.vocabulary().hash();
  }
  const std::string rest =
      fmt::format("{}|{}|{}|{}", options.lowercase, options.max_length, options.skip_bad_rows, kTokenizerVersion);
  const uint64_t key =
      hash_bytes(data.name + "|" + rest, hash_bytes(std::to_string(vocab_key), row.content_key(options)));

  std::optional<CachedTokens> tokens;
  if (!options.cache_dir.empty()) tokens = read_token_cache(options.cache_dir, data.name, key);
  data.from_cache = tokens.has_value();
  if (tokens) {
    if (!data.tokenizer)
      data.tokenizer =
          std::make_shared<WordPiece>(Vocabulary::from_tokens(tokens->vocabulary, kTrained), options.lowercase);
  } else {
    const TextDataset text = row.load(options, data.bad_rows);
    tokens.emplace();
    if (!data.tokenizer) {
      data.tokenizer = std::make_shared<WordPiece>(tokenizer_for(options, text));
      tokens->vocabulary = data.vocabulary().tokens();
    }
    tokens->class_names = text.class_names;
    tokens->source = text.source;
    tokens->is_synthetic = text.is_synthetic;
    tokens->bayes_accuracy = text.bayes_accuracy;
    tokens->train = tokenize_split(text.train, *data.tokenizer, options.max_length);
    tokens->test = tokenize_split(text.test, *data.tokenizer, options.max_length);
    // Rows that were skipped are to be listed at each load, so such ids are not cached.
    if (!options.cache_dir.empty() && data.bad_rows.count() == 0)
      data.cache_note = write_token_cache(options.cache_dir, data.name, key, *tokens);
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

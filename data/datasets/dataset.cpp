#include "data/datasets/dataset.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>

#include "data/datasets/datasets.h"
#include "data/datasets/prompts.h"
#include "data/datasets/token_cache.h"
#include "data/text/csv_table.h"
#include "data/text/near_copies.h"
#include "data/tokens/tokenizer_config.h"
#include "data/tokens/vocab_trainer.h"
#include "engine/core/check.h"
#include "engine/core/command_line/phase.h"
#include "engine/core/file.h"
#include "engine/core/parallel.h"
#include "engine/core/random/rng.h"

namespace glia {
namespace {

constexpr uint64_t kTokenizerVersion =
    2;  // to be raised when what is cached changes: pieces, rows, marks of near copies

// Made-up words want pieces of their own, unless the user says otherwise.
std::string vocabulary_path(const DatasetOptions& options, bool is_synthetic) {
  return is_synthetic ? options.vocab : find_vocabulary(options);
}

TokenSplit select_rows(const TokenSplit& from, const std::vector<int64_t>& rows) {
  TokenSplit split;
  for (const int64_t row : rows) split.append(from, row);
  return split;
}

void begin(PhaseDisplay* display, const char* what) {
  if (display) display->begin(what);
}

// The rows of the chosen topics, whose labels become their places among the chosen.
TokenSplit rows_of_topics(const TokenSplit& from, const std::vector<int32_t>& chosen) {
  TokenSplit split;
  for (int64_t row = 0; row < from.size(); ++row) {
    const auto at = std::find(chosen.begin(), chosen.end(), from.labels[static_cast<size_t>(row)]);
    if (at == chosen.end()) continue;
    split.append(from, row);
    split.labels.back() = static_cast<int32_t>(at - chosen.begin());
  }
  return split;
}

void keep_topics(CachedTokens& tokens, const std::string& list) {
  const std::vector<int32_t> chosen = datasets::topics_named(list, tokens.class_names);
  tokens.train = rows_of_topics(tokens.train, chosen);
  tokens.test = rows_of_topics(tokens.test, chosen);
  std::vector<std::string> names;
  for (const int32_t c : chosen) names.push_back(tokens.class_names[static_cast<size_t>(c)]);
  tokens.class_names = std::move(names);
  tokens.bayes_accuracy.reset();  // it is that of all topics
}

constexpr uint64_t kCutSeed = 7;  // which rows --max-rows keeps: the same for every run and seed

void cut(TokenSplit& split, int64_t rows) {
  if (rows == 0 || rows >= split.size()) return;
  const double held = static_cast<double>(rows) / static_cast<double>(split.size());
  split = select_rows(split, stratified_split(split.labels, held, kCutSeed).held_out);
}

void cut_rows(Dataset& data, const DatasetOptions& options) {
  const int64_t before = data.train.size();
  cut(data.train, options.max_rows);
  if (options.max_rows > 0 && options.max_rows < before && data.validation.size() > 0) {
    const double share = static_cast<double>(options.max_rows) / static_cast<double>(before);
    cut(data.validation, std::max<int64_t>(1, std::llround(share * static_cast<double>(data.validation.size()))));
  }
  cut(data.test, options.max_test_rows);
}

// Classes that a part has no row of: what is measured there says nothing about them.
void warn_of_missing_classes(Dataset& data) {
  const auto count = [](const TokenSplit& split, size_t c) {
    return std::count(split.labels.begin(), split.labels.end(), static_cast<int32_t>(c));
  };
  constexpr int kMost = 10;
  int classes = 0;
  for (size_t c = 0; c < data.class_names.size(); ++c) {
    std::string lacking;
    const auto look = [&](const char* name, const TokenSplit& split) {
      if (split.size() > 0 && count(split, c) == 0) lacking += (lacking.empty() ? "" : " and ") + std::string(name);
    };
    look("training", data.train), look("validation", data.validation), look("test", data.test);
    if (lacking.empty() || ++classes > kMost) continue;
    const int64_t rows = count(data.train, c);
    data.notes.push_back(fmt::format("warning: the class \"{}\" has {} training row{} and none in {}",
                                     data.class_names[c], rows, rows == 1 ? "" : "s", lacking));
  }
  if (classes > kMost) data.notes.push_back(fmt::format("warning: {} more classes lack rows", classes - kMost));
}

// [CLS] and the pieces of all columns but the last, of which a sequence of `length` may hold fewer.
int32_t title_border(const TextSplit& texts, int64_t row, const WordPiece& tokenizer, int64_t length) {
  std::vector<int32_t> ids;
  tokenizer.encode(
      std::string_view(texts.texts[static_cast<size_t>(row)]).substr(0, texts.bodies[static_cast<size_t>(row)]),
      ids);
  return static_cast<int32_t>(std::min<int64_t>(1 + static_cast<int64_t>(ids.size()), length - 1));
}

// Borders of all rows, without those rows that have no prompt.
void set_prompts(CachedTokens& tokens, const DatasetOptions& options, Dataset& data) {
  if (options.prompt == "none") return;
  const std::vector<int32_t> enders = sentence_enders(data.vocabulary());
  for (const auto& [name, split] : {std::pair{"training", &tokens.train}, std::pair{"test", &tokens.test}}) {
    if (options.prompt == "sentence") set_sentence_borders(*split, enders);
    const int64_t all = split->size(), left_out = leave_out_unprompted(*split);
    if (left_out == all)
      fail_input("--prompt {}: expected {} texts with a prompt and something behind it, got none among {}",
                 options.prompt, name, all);
    data.notes.push_back(fmt::format("--prompt {}: {} of {} {} rows have none and are left out", options.prompt,
                                     left_out, all, name));
  }
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
  if (options.dataset != "auto") return options.dataset;
  // A folder that was asked for and holds nothing is a mistake to report, not a reason to generate text.
  return datasets::ag_news_is_there(options) || !options.data.empty() ? "ag_news" : "synthetic";
}

WordPiece tokenizer_from(const DatasetOptions& options, const std::string& path, std::vector<std::string>& notes) {
  if (path == "bytes") return WordPiece(Vocabulary::of_bytes(), false);
  Vocabulary vocabulary = Vocabulary::from_file(path);
  const LetterCase letters = letter_case(options.lowercase, vocabulary, path);
  if (!letters.why.empty()) notes.push_back(letters.why);
  return WordPiece(std::move(vocabulary), letters.lowercase);
}

WordPiece tokenizer_for(const DatasetOptions& options, const TextDataset& data, std::vector<std::string>& notes,
                        PhaseDisplay* display) {
  const std::string path = vocabulary_path(options, data.is_synthetic);
  if (!path.empty()) return tokenizer_from(options, path, notes);
  const bool lowercase = options.lowercase != "off";
  begin(display, "learning a vocabulary");
  VocabTrainer trainer(lowercase);
  for (const std::string& text : data.train.texts) trainer.add(text);
  VocabTrainerOptions wanted;
  wanted.size = options.vocab_size;
  if (display) wanted.progress = [display](int64_t done, int64_t of) { display->step(done, of); };
  return WordPiece(Vocabulary::from_tokens(trainer.train(wanted), Vocabulary::kTrained), lowercase);
}

std::vector<std::string_view> TextSplit::body_texts() const {
  std::vector<std::string_view> found;
  for (size_t i = 0; i < texts.size(); ++i)
    found.push_back(std::string_view(texts[i]).substr(bodies.empty() ? 0 : bodies[i]));
  return found;
}

void TokenSplit::append(const TokenSplit& from, int64_t row) {
  ids.insert(ids.end(), from.ids.begin() + from.offsets[row], from.ids.begin() + from.offsets[row + 1]);
  offsets.push_back(static_cast<int64_t>(ids.size()));
  labels.push_back(from.labels[row]);
  if (!from.near_copies.empty()) near_copies.push_back(from.near_copies[row]);
  if (!from.borders.empty()) borders.push_back(from.borders[row]);
}

TokenSplit tokenize_split(const TextSplit& texts, const WordPiece& tokenizer, int64_t max_length,
                          PhaseDisplay* display, bool titles) {
  CHECK(max_length >= 3, "tokenize: wants a length of at least 3, got {}", max_length);
  CHECK(texts.texts.size() == texts.labels.size(), "tokenize: {} texts, {} labels", texts.texts.size(),
        texts.labels.size());
  constexpr int64_t kChunk = 1024;
  if (titles && texts.bodies.size() != texts.texts.size())
    fail_input("--prompt title: expected texts of several columns, got those of one; sentence takes any text");
  struct Part {
    std::vector<int32_t> ids, borders;
    std::vector<int64_t> lengths;
  };
  const auto rows = static_cast<int64_t>(texts.texts.size());
  std::vector<Part> parts(static_cast<size_t>((rows + kChunk - 1) / kChunk));
  std::atomic<int64_t> done = 0;
  parallel_for(rows, kChunk, [&](int64_t first, int64_t end) {
    if (display) display->step(done += end - first, rows);
    for (int64_t row = first; row < end; ++row) {
      Part& part = parts[static_cast<size_t>(row / kChunk)];
      const size_t before = part.ids.size();
      tokenizer.encode_sequence(texts.texts[static_cast<size_t>(row)], max_length, part.ids);
      part.lengths.push_back(static_cast<int64_t>(part.ids.size() - before));
      if (titles) part.borders.push_back(title_border(texts, row, tokenizer, part.lengths.back()));
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
    split.borders.insert(split.borders.end(), part.borders.begin(), part.borders.end());
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

// A name goes before a number.
std::vector<int32_t> datasets::topics_named(const std::string& list, const std::vector<std::string>& names) {
  std::vector<int32_t> chosen;
  std::string known;
  for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
  for (const std::string& item : comma_list(list)) {
    const std::string wanted = trimmed(item);
    auto at = std::find(names.begin(), names.end(), wanted) - names.begin();
    for (size_t c = 0; at == std::ssize(names) && c < names.size(); ++c)
      if (wanted == std::to_string(c)) at = static_cast<int64_t>(c);
    if (at == std::ssize(names))
      fail_input("--only-topics: expected some of {}, or their numbers from 0; got '{}'", known, wanted);
    if (std::find(chosen.begin(), chosen.end(), at) != chosen.end())
      fail_input("--only-topics: {} is there twice", names[static_cast<size_t>(at)]);
    chosen.push_back(static_cast<int32_t>(at));
  }
  if (chosen.size() < 2) fail_input("--only-topics: expected at least two of {}, got '{}'", known, list);
  return chosen;
}

void warn_of_unknown_pieces(const TokenSplit& split, const Vocabulary& vocabulary, const char* part, double share,
                            std::vector<std::string>& notes) {
  const auto unknown = static_cast<double>(std::count(split.ids.begin(), split.ids.end(), vocabulary.unk()));
  const double found = unknown / static_cast<double>(std::max<int64_t>(1, split.tokens()));
  if (found > share)
    notes.push_back(fmt::format("warning: {:.{}f} % of the {} pieces are [UNK]: {} does not fit these texts",
                                100 * found, found < 0.001 ? 3 : 1, part, vocabulary.source()));
}

Dataset load_dataset(const DatasetOptions& options, PhaseDisplay* display) {
  check_data_options(options);
  const DatasetRow& row = find_dataset(dataset_name(options));
  Dataset data;
  data.name = row.name;
  data.max_length = options.max_length;
  data.bad_rows = BadRows(options.skip_bad_rows);

  const std::string vocab_path = vocabulary_path(options, data.name == "synthetic");
  uint64_t vocab_key = hash_bytes("trained", static_cast<uint64_t>(options.vocab_size));
  bool lowercase = options.lowercase != "off";
  begin(display, "reading the data");
  if (!vocab_path.empty()) {
    data.tokenizer = std::make_shared<WordPiece>(tokenizer_from(options, vocab_path, data.notes));
    vocab_key = data.vocabulary().hash();
    lowercase = data.tokenizer->lowercase();
  }
  const bool titles = options.prompt == "title";
  const std::string rest = fmt::format("{}|{}|{}|{}{}", lowercase, options.max_length, options.skip_bad_rows,
                                       kTokenizerVersion, titles ? "|titles" : "");
  const uint64_t key =
      hash_bytes(data.name + "|" + rest, hash_bytes(std::to_string(vocab_key), row.content_key(options)));

  std::optional<CachedTokens> tokens;
  if (!options.cache.empty()) tokens = read_token_cache(options.cache, data.name, key);
  data.from_cache = tokens.has_value();
  if (tokens) {
    if (!data.tokenizer)
      data.tokenizer =
          std::make_shared<WordPiece>(Vocabulary::from_tokens(tokens->vocabulary, Vocabulary::kTrained), lowercase);
  } else {
    const TextDataset text = row.load(options, data.bad_rows);
    tokens.emplace();
    if (!data.tokenizer) {
      data.tokenizer = std::make_shared<WordPiece>(tokenizer_for(options, text, data.notes, display));
      tokens->vocabulary = data.vocabulary().tokens();
    }
    tokens->class_names = text.class_names;
    tokens->source = text.source;
    tokens->is_synthetic = text.is_synthetic;
    tokens->bayes_accuracy = text.bayes_accuracy;
    tokens->notes = text.notes;
    begin(display, "cutting the training texts into pieces");
    tokens->train = tokenize_split(text.train, *data.tokenizer, options.max_length, display, titles);
    begin(display, "cutting the test texts into pieces");
    tokens->test = tokenize_split(text.test, *data.tokenizer, options.max_length, display, titles);
    begin(display, "looking for near copies");
    tokens->test.near_copies = near_copies(text.test.body_texts(), text.train.body_texts());
    // Rows that were skipped are to be listed at each load, so such ids are not cached.
    if (!options.cache.empty() && data.bad_rows.count() == 0)
      data.cache_note = write_token_cache(options.cache, data.name, key, *tokens);
  }
  begin(display, "splitting the data");
  set_prompts(*tokens, options, data);
  if (!options.only_topics.empty()) keep_topics(*tokens, options.only_topics);
  data.source = tokens->source;
  data.notes.insert(data.notes.end(), tokens->notes.begin(), tokens->notes.end());
  data.is_synthetic = tokens->is_synthetic;
  data.bayes_accuracy = tokens->bayes_accuracy;
  data.class_names = std::move(tokens->class_names);
  const SplitRows rows = stratified_split(tokens->train.labels, options.validation_fraction,
                                          static_cast<uint64_t>(options.split_seed));
  data.train = select_rows(tokens->train, rows.kept);
  data.validation = select_rows(tokens->train, rows.held_out);
  data.test = std::move(tokens->test);
  cut_rows(data, options);
  warn_of_missing_classes(data);
  warn_of_unknown_pieces(data.train, data.vocabulary(), "training", kUnknownShare, data.notes);
  begin(display, "");
  return data;
}

}  // namespace glia

#include "data/datasets/corpus.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <unordered_set>

#include "data/datasets/datasets.h"
#include "data/datasets/layouts.h"
#include "data/datasets/token_cache.h"
#include "data/text/documents.h"
#include "data/text/word_runs.h"
#include "data/tokens/vocab_trainer.h"
#include "engine/core/check.h"
#include "engine/core/command_line/phase.h"
#include "engine/core/file.h"
#include "engine/core/parallel.h"
#include "engine/core/random/rng.h"

namespace fs = std::filesystem;

namespace glia {
namespace {

constexpr uint64_t kVersion = 3;  // of what is cached
constexpr int64_t kRun = 64;      // neighbouring documents that are held out together, where there are many
constexpr size_t kBlock = 8192;   // bytes of a document where bytes are the tokens: no line is left out

void begin(PhaseDisplay* display, const std::string& what) {
  if (display) display->begin(what);
}

// One source's text and where its documents lie in it.
struct Texts {
  std::string name;
  std::unique_ptr<const std::string> text;  // of a file; stays where it is when this moves
  std::vector<std::string> rows;            // of a data set
  std::vector<std::string_view> documents;
  std::vector<int32_t> classes;  // [documents], or empty: they have none
  int64_t validation = 0;

  void keep(size_t count) {
    documents.resize(count);
    if (!classes.empty()) classes.resize(count);
  }
};

Texts texts_of_file(const fs::path& path, bool bytes) {
  Texts t;
  t.name = path.filename().string();
  t.name = t.name.substr(0, t.name.find('.'));
  t.text = std::make_unique<const std::string>(read_text(path));
  if (!bytes) require_text(*t.text, path.string());
  t.documents = bytes ? blocks_of(*t.text, kBlock) : documents_of(*t.text);
  if (t.documents.empty()) fail_input("{}: expected text, a document a line; found none", path.string());
  return t;
}

// Of the training rows those of --only-topics, counted as load_dataset() counts them, so that validation rows are the same. All test
// rows stay: what shares words with one of another topic is left out too.
void keep_topics(TextDataset& data, const std::string& list) {
  const std::vector<int32_t> chosen = datasets::topics_named(list, data.class_names);
  TextSplit kept;
  for (size_t row = 0; row < data.train.texts.size(); ++row) {
    const auto at = std::ranges::find(chosen, data.train.labels[row]);
    if (at == chosen.end()) continue;
    kept.texts.push_back(std::move(data.train.texts[row]));
    kept.labels.push_back(static_cast<int32_t>(at - chosen.begin()));
  }
  data.train = std::move(kept);
  std::vector<std::string> names;
  for (const int32_t c : chosen) names.push_back(data.class_names[static_cast<size_t>(c)]);
  data.class_names = std::move(names);
}

// The training rows of the default split; the validation rows stay out.
Texts texts_of_training(const CorpusOptions& o, const std::string& name, TextDataset& data) {
  Texts t;
  t.name = name + "_train";
  const SplitRows rows =
      stratified_split(data.train.labels, o.data.validation_fraction, static_cast<uint64_t>(o.data.split_seed));
  t.validation = static_cast<int64_t>(rows.held_out.size());
  for (const int64_t row : rows.kept) t.rows.push_back(std::move(data.train.texts[static_cast<size_t>(row)]));
  for (size_t i = 0; i < t.rows.size(); ++i) {
    if (t.rows[i].find_first_not_of(" \t\r\n") == std::string::npos) continue;
    t.documents.push_back(t.rows[i]);
    if (o.topics) t.classes.push_back(data.train.labels[static_cast<size_t>(rows.kept[i])]);
  }
  return t;
}

// Leaves out what shares a run of words with a test row; returns how many those are.
int64_t remove_overlapping(Texts& t, const WordRuns& tested, PhaseDisplay* display) {
  const std::vector<std::string_view>& documents = t.documents;
  std::vector<uint8_t> shared(documents.size());
  std::atomic<int64_t> done = 0;
  const auto n = static_cast<int64_t>(documents.size());
  parallel_for(n, 256, [&](int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i)
      shared[static_cast<size_t>(i)] = tested.shared_by(documents[static_cast<size_t>(i)]);
    if (display) display->step(done += end - first, n);
  });
  size_t kept = 0;
  for (size_t i = 0; i < documents.size(); ++i) {
    if (shared[i]) continue;
    if (!t.classes.empty()) t.classes[kept] = t.classes[i];
    t.documents[kept++] = documents[i];
  }
  const auto removed = static_cast<int64_t>(documents.size() - kept);
  t.keep(kept);
  return removed;
}

// A document's label is its source's number; classes count on from there, so only the last source may have any.
void append_tokens(TokenSplit& to, const Texts& t, const WordPiece& tokenizer, int32_t source,
                   PhaseDisplay* display) {
  constexpr int64_t kChunk = 64;
  const std::vector<std::string_view>& documents = t.documents;
  struct Part {
    std::vector<int32_t> ids;
    std::vector<int64_t> lengths;
  };
  const auto n = static_cast<int64_t>(documents.size());
  std::vector<Part> parts(static_cast<size_t>((n + kChunk - 1) / kChunk));
  std::atomic<int64_t> done = 0;
  parallel_for(n, kChunk, [&](int64_t first, int64_t end) {
    Part& part = parts[static_cast<size_t>(first / kChunk)];
    for (int64_t i = first; i < end; ++i) {
      const size_t before = part.ids.size();
      tokenizer.encode(documents[static_cast<size_t>(i)], part.ids);
      part.lengths.push_back(static_cast<int64_t>(part.ids.size() - before));
    }
    if (display) display->step(done += end - first, n);
  });
  const size_t before = to.labels.size();
  for (const Part& part : parts) {
    to.ids.insert(to.ids.end(), part.ids.begin(), part.ids.end());
    for (const int64_t length : part.lengths) {
      to.offsets.push_back(to.offsets.back() + length);
      to.labels.push_back(source + (t.classes.empty() ? 0 : t.classes[to.labels.size() - before]));
    }
  }
}

WordPiece tokenizer_of(const std::vector<Texts>& all, const CorpusOptions& o, PhaseDisplay* display) {
  const bool lowercase = o.data.lowercase != "off";
  begin(display, "learning a vocabulary");
  VocabTrainer trainer(lowercase);
  for (const Texts& t : all)
    for (const std::string_view document : t.documents) trainer.add(document);
  VocabTrainerOptions wanted;
  wanted.size = o.data.vocab_size;
  return WordPiece(Vocabulary::from_tokens(trainer.train(wanted), Vocabulary::kTrained), lowercase);
}

// How many documents are held out together: at least eight runs, where there are so many documents.
int64_t run_of(int64_t documents, double share) {
  return std::clamp<int64_t>(std::llround(share * static_cast<double>(documents) / 8), 1, kRun);
}

// 0: training, 1: held out, 2: beside such a run and in neither part.
std::vector<uint8_t> parts_of(int64_t documents, double share, uint64_t seed, uint32_t source) {
  std::vector<uint8_t> part(static_cast<size_t>(documents));
  const int64_t run = run_of(documents, share), runs = (documents + run - 1) / run, guard = run / 4;
  const int64_t take = std::min(runs - 1, static_cast<int64_t>(std::ceil(share * static_cast<double>(runs))));
  const std::vector<int32_t> order = random_permutation(runs, seed, purpose::kSplit + 1, source);
  for (int64_t i = 0; i < take; ++i) {
    const int64_t begin = order[static_cast<size_t>(i)] * run, end = std::min(documents, begin + run);
    for (int64_t d = std::max<int64_t>(0, begin - guard); d < std::min(documents, end + guard); ++d)
      if (d >= begin && d < end) part[static_cast<size_t>(d)] = 1;
      else if (part[static_cast<size_t>(d)] == 0) part[static_cast<size_t>(d)] = 2;
  }
  return part;
}

// What append_tokens labelled, to both parts.
void split(const TokenSplit& all, const CorpusOptions& o, Corpus& corpus) {
  const auto classless = static_cast<int32_t>(corpus.sources.size()) - 1;  // so many sources
  int64_t first = 0;
  for (size_t s = 0; s < corpus.sources.size(); ++s) {
    int64_t end = first;
    while (end < all.size() && std::min(all.labels[static_cast<size_t>(end)], classless) == static_cast<int32_t>(s))
      ++end;
    const std::vector<uint8_t> parts =
        parts_of(end - first, o.held_out, static_cast<uint64_t>(o.data.split_seed), static_cast<uint32_t>(s));
    for (int64_t d = first; d < end; ++d) {
      const uint8_t part = parts[static_cast<size_t>(d - first)];
      if (part < 2) {
        TokenSplit& to = part ? corpus.held_out : corpus.training;
        to.append(all, d);
        if (o.topics) to.labels.back() = std::max(to.labels.back() - classless, -1);
      }
      corpus.sources[s].held_out += part == 1;
      corpus.sources[s].guards += part == 2;
    }
    first = end;
  }
}

// What is measured on a document that was trained on too says little.
void note_repeated(Corpus& corpus) {
  const auto document = [](const TokenSplit& split, int64_t d) {
    const int32_t* ids = split.ids.data() + split.offsets[static_cast<size_t>(d)];
    return hash_bytes({reinterpret_cast<const char*>(ids), static_cast<size_t>(split.length(d)) * sizeof *ids});
  };
  std::unordered_set<uint64_t> held_out;
  for (int64_t d = 0; d < corpus.held_out.size(); ++d) held_out.insert(document(corpus.held_out, d));
  std::unordered_set<uint64_t> repeated;
  for (int64_t d = 0; d < corpus.training.size(); ++d)
    if (const uint64_t hash = document(corpus.training, d); held_out.contains(hash)) repeated.insert(hash);
  int64_t count = 0;
  for (int64_t d = 0; d < corpus.held_out.size(); ++d) count += repeated.contains(document(corpus.held_out, d));
  if (count > 0)
    corpus.notes.push_back(fmt::format("warning: {} of the {} held-out documents stand among the training ones too",
                                       count, corpus.held_out.size()));
}

// What the cache keeps of a source beside its ids.
std::string note_of(const Corpus::Source& s) {
  return fmt::format("{} {} {}", s.documents, s.overlapping, s.validation);
}
void read_note(const std::string& note, Corpus::Source& s) {
  char* at = nullptr;
  s.documents = std::strtoll(note.c_str(), &at, 10);
  s.overlapping = std::strtoll(at, &at, 10);
  s.validation = std::strtoll(at, &at, 10);
}

uint64_t key_of(const CorpusOptions& o, const std::vector<fs::path>& files, const DatasetRow& row,
                uint64_t vocabulary, bool lowercase) {
  uint64_t key =
      hash_bytes(fmt::format("corpus|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}", kVersion, lowercase, o.training_texts,
                             o.overlap_words, o.max_documents, o.data.validation_fraction, o.data.split_seed,
                             o.data.skip_bad_rows, o.data.only_topics, vocabulary),
                 row.content_key(o.data));
  if (o.topics) key = hash_bytes("topics", key);
  for (const fs::path& file : files) key = hash_bytes(file.filename().string(), hash_bytes(read_file(file), key));
  return key;
}

CachedTokens make_tokens(const CorpusOptions& o, const std::vector<fs::path>& files, const DatasetRow& row,
                         BadRows& bad_rows, Corpus& corpus, PhaseDisplay* display) {
  TextDataset data = row.load(o.data, bad_rows);
  if (!o.data.only_topics.empty()) keep_topics(data, o.data.only_topics);
  WordRuns tested(std::max<int64_t>(1, o.overlap_words));
  if (o.overlap_words > 0)
    for (const std::string& text : data.test.texts) tested.add(text);
  tested.settle();
  const size_t tests = o.overlap_words > 0 ? data.test.texts.size() : 0;

  CachedTokens tokens;
  const auto take = [&](Texts& t) {
    Corpus::Source source{t.name, static_cast<int64_t>(t.documents.size()) + t.validation, 0, t.validation};
    if (o.max_documents > 0 && static_cast<int64_t>(t.documents.size()) > o.max_documents)
      t.keep(static_cast<size_t>(o.max_documents));
    begin(display, fmt::format("comparing {} with the test rows", t.name));
    if (o.overlap_words > 0) source.overlapping = remove_overlapping(t, tested, display);
    tokens.class_names.push_back(t.name);
    tokens.notes.push_back(note_of(source));
  };
  const auto encode = [&](const Texts& t, size_t label) {
    begin(display, fmt::format("cutting {} into word pieces", t.name));
    append_tokens(tokens.train, t, *corpus.tokenizer, static_cast<int32_t>(label), display);
  };
  // With a vocabulary one source after another; without, all of them at once, since it is learnt from all.
  const size_t sources = files.size() + (o.training_texts ? 1 : 0);
  std::map<uint64_t, std::string> seen;  // by the hash
  const auto source = [&](size_t i) {
    begin(display, "reading the text");
    const bool bytes = corpus.tokenizer && corpus.tokenizer->of_bytes();
    if (i >= files.size()) return texts_of_training(o, row.name, data);
    Texts t = texts_of_file(files[i], bytes);
    // What is held out of one would be trained on in the other.
    // By its documents, so that neither lines' ends nor a byte order mark make another text of it.
    uint64_t hash = 0;
    for (const std::string_view document : t.documents) hash = hash_bytes(document, hash);
    if (const auto [first, is_new] = seen.emplace(hash, files[i].string()); !is_new)
      fail_input("{}: the same text as {}: expected each text once", files[i].string(), first->second);
    return t;
  };
  if (corpus.tokenizer) {
    for (size_t i = 0; i < sources; ++i) {
      Texts t = source(i);
      take(t);
      encode(t, i);
    }
  } else {
    std::vector<Texts> all(sources);
    for (size_t i = 0; i < sources; ++i) {
      all[i] = source(i);
      take(all[i]);
    }
    corpus.tokenizer = std::make_shared<WordPiece>(tokenizer_of(all, o, display));
    tokens.vocabulary = corpus.vocabulary().tokens();
    for (size_t i = 0; i < sources; ++i) encode(all[i], i);
  }
  tokens.notes.push_back(std::to_string(tests));
  tokens.notes.insert(tokens.notes.end(), data.notes.begin(), data.notes.end());
  if (o.topics)  // behind the sources' names
    tokens.class_names.insert(tokens.class_names.end(), data.class_names.begin(), data.class_names.end());
  return tokens;
}

}  // namespace

Corpus load_corpus(const CorpusOptions& o, PhaseDisplay* display) {
  check_data_options(o.data);
  if (o.layout != kNoLayout) return layout_corpus(o);
  const DatasetRow& row = find_dataset(dataset_name(o.data));
  Corpus corpus;
  const std::vector<fs::path> files = text_files(o.files, &corpus.notes);
  if (files.empty() && !o.training_texts)
    fail_input("--corpus: expected files with text, or --training-texts on; got neither");
  CHECK(o.held_out > 0 && o.held_out < 1, "corpus: wants a share in (0, 1) to hold out, got {}", o.held_out);
  CHECK(o.training_texts || !o.topics,
        "corpus: topics are those of the data set's training texts, which are left out");

  corpus.excluded = row.name;
  // Words that are made up want pieces of their own, as in load_dataset.
  const bool made_up = std::string_view(row.name) == "synthetic" && files.empty();
  const std::string vocabulary = made_up ? o.data.vocab : find_vocabulary(o.data);
  bool lowercase = o.data.lowercase != "off";
  uint64_t key = hash_bytes("trained", static_cast<uint64_t>(o.data.vocab_size));
  begin(display, "reading the text");
  if (!vocabulary.empty()) {
    corpus.tokenizer = std::make_shared<WordPiece>(tokenizer_from(o.data, vocabulary, corpus.notes));
    lowercase = corpus.tokenizer->lowercase();
    key = corpus.vocabulary().hash();
  }
  key = key_of(o, files, row, key, lowercase);

  std::optional<CachedTokens> tokens;
  if (!o.data.cache.empty()) tokens = read_token_cache(o.data.cache, "corpus", key);
  corpus.from_cache = tokens.has_value();
  if (!tokens) {
    BadRows bad_rows(o.data.skip_bad_rows);
    tokens = make_tokens(o, files, row, bad_rows, corpus, display);
    // Rows that were skipped are to be listed at each load, so such ids are not cached.
    if (bad_rows.count() > 0) corpus.notes.push_back(bad_rows.summary());
    else if (!o.data.cache.empty())
      if (std::string note = write_token_cache(o.data.cache, "corpus", key, *tokens); !note.empty())
        corpus.notes.push_back(std::move(note));
  } else if (!corpus.tokenizer) {
    corpus.tokenizer =
        std::make_shared<WordPiece>(Vocabulary::from_tokens(tokens->vocabulary, Vocabulary::kTrained), lowercase);
  }
  const size_t sources = files.size() + (o.training_texts ? 1 : 0);
  for (size_t s = 0; s < sources; ++s) {
    corpus.sources.push_back({tokens->class_names[s]});
    read_note(tokens->notes[s], corpus.sources.back());
  }
  corpus.class_names.assign(tokens->class_names.begin() + static_cast<int64_t>(sources), tokens->class_names.end());
  corpus.test_rows = std::strtoll(tokens->notes.at(sources).c_str(), nullptr, 10);
  corpus.notes.insert(corpus.notes.end(), tokens->notes.begin() + static_cast<int64_t>(sources) + 1,
                      tokens->notes.end());  // the data set's
  begin(display, "splitting the text");
  split(tokens->train, o, corpus);
  warn_of_unknown_pieces(corpus.training, corpus.vocabulary(), "training", kUnknownShare, corpus.notes);
  note_repeated(corpus);
  begin(display, "");
  if (corpus.training.tokens() == 0 || corpus.held_out.tokens() == 0)
    fail_input("--corpus: {} documents with {} word pieces are too few to train on some and hold {} of them out",
               tokens->train.size(), tokens->train.tokens(), o.held_out);
  return corpus;
}

}  // namespace glia

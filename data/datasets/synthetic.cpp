#include "data/datasets/synthetic.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "data/datasets/datasets.h"
#include "data/datasets/synthetic_words.h"
#include "data/tokens/word_builder.h"
#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/parallel.h"
#include "engine/core/random/rng.h"

namespace glia::datasets {
namespace {

using namespace synthetic;

constexpr int64_t kOwnNouns = 22, kOwnVerbs = 9, kOwnAdjectives = 6, kSharedByTwo = 6;  // per topic, when made up

// "a b c" → {"a", "b", "c"}; an underscore stands for a hyphen-free compound ("measured_out" → "measuredout").
std::vector<std::string> split_words(std::string_view list) {
  std::vector<std::string> words;
  std::string word;
  for (const char c : list) {
    if (c == ' ') {
      words.push_back(std::move(word));
      word.clear();
    } else if (c != '_') {
      word += c;
    }
  }
  words.push_back(std::move(word));
  return words;
}

struct SharedLists {
  std::vector<std::string> parts[3], adverbs, onsets, vowels, codas;
};

const SharedLists& shared() {
  static const SharedLists lists{{split_words(kNouns), split_words(kVerbs), split_words(kAdjectives)},
                                 split_words(kAdverbs),
                                 split_words(kOnsets),
                                 split_words(kVowels),
                                 split_words(kCodas)};
  return lists;
}

}  // namespace

// The random numbers of one row (or of one made-up word): element by element from their own counter.
struct SyntheticCorpus::Draw {
  uint64_t seed;
  uint32_t purpose, step;
  uint64_t element = 0;
  uint64_t below(uint64_t n) { return random_below(n, seed, purpose, step, element++); }
  bool chance(double p) { return random_bits(seed, purpose, step, 4 * element++) < bernoulli_threshold(p); }
  double normal() { return random_normal(seed, purpose, step, 2 * element++); }
  const std::string& of(const std::vector<std::string>& list) { return list[below(list.size())]; }
  std::string syllables(uint64_t n) {
    std::string text;
    for (uint64_t i = 0; i < n; ++i) text += of(shared().onsets) + of(shared().vowels);
    return text + of(shared().codas);
  }
};

SyntheticCorpus::SyntheticCorpus(const SyntheticOptions& options) : options_(options) {
  if (options.topics < 2 || options.topics > 1000)
    fail_input("synthetic corpus: expected 2 to 1000 topics, got {}", options.topics);
  if (!(options.difficulty >= 0 && options.difficulty <= 1))
    fail_input("synthetic corpus: expected a difficulty from 0 to 1, got {}", options.difficulty);

  std::set<std::string> taken;
  const auto take = [&](const std::vector<std::string>& words) {
    for (const std::string& word : words)
      CHECK(taken.insert(word).second, "synthetic corpus: \"{}\" stands in two lists", word);
  };
  for (const auto& list : shared().parts) take(list);
  take(shared().adverbs);
  for (const char* pattern : kSentences)
    for (const std::string& word : split_words(pattern))
      if (word.size() > 1)
        CHECK(!taken.contains(word), "synthetic corpus: \"{}\" stands in a list and a pattern", word);
  const std::vector<std::string> ambiguous = split_words(kAmbiguous);
  take(ambiguous);
  for (const TopicWords& topic : kTopics)
    for (const char* list : {topic.nouns, topic.verbs, topic.adjectives}) take(split_words(list));

  // Past the built-in topics, and past the dealt-out ambiguous nouns, words are made of syllables.
  Draw draw{options.seed, purpose::kSynthetic, 0xFFFFFFFFu};
  const auto make_up = [&](int64_t n, const char* ending) {
    std::vector<std::string> words;
    while (static_cast<int64_t>(words.size()) < n) {
      std::string word = draw.syllables(2) + ending;
      if (taken.insert(word).second) words.push_back(std::move(word));
    }
    return words;
  };
  const auto topics = static_cast<size_t>(options.topics);
  for (size_t t = 0; t < topics; ++t) {
    Topic topic;
    if (t < std::size(kTopics)) {
      class_names_.push_back(kTopics[t].name);
      topic.words[kNoun] = split_words(kTopics[t].nouns);
      topic.words[kVerb] = split_words(kTopics[t].verbs);
      topic.words[kAdjective] = split_words(kTopics[t].adjectives);
    } else {
      class_names_.push_back(fmt::format("Topic {}", t + 1));
      topic.words[kNoun] = make_up(kOwnNouns, "");
      topic.words[kVerb] = make_up(kOwnVerbs, "ed");
      topic.words[kAdjective] = make_up(kOwnAdjectives, "ic");
    }
    topics_.push_back(std::move(topic));
    std::vector<std::string> both;
    for (size_t i = t * kSharedByTwo; i < (t + 1) * kSharedByTwo && i < ambiguous.size(); ++i)
      both.push_back(ambiguous[i]);
    ambiguous_.push_back(both.empty() ? make_up(kSharedByTwo, "") : both);
  }

  // P(word | topic) of every topical word, up to what does not depend on the topic.
  const double d = options.difficulty, c = static_cast<double>(topics);
  const auto source_given = [&](size_t source, size_t topic) { return (source == topic ? 1 - d : 0.0) + d / c; };
  for (size_t source = 0; source < topics; ++source) {
    for (int part = 0; part < kParts; ++part) {
      const std::vector<std::string>& words = topics_[source].words[part];
      const double own = (part == kNoun ? 1 - kAmbiguousShare : 1.0) / static_cast<double>(words.size());
      for (const std::string& word : words) {
        auto& likelihood = log_likelihood_[word];
        for (size_t t = 0; t < topics; ++t) likelihood.push_back(std::log(source_given(source, t) * own));
      }
    }
    const size_t next = (source + 1) % topics, before = (source + topics - 1) % topics;
    const auto reach = [&](size_t a, size_t b) {
      return static_cast<double>(ambiguous_[a].size() + ambiguous_[b].size());
    };
    for (const std::string& word : ambiguous_[source]) {
      auto& likelihood = log_likelihood_[word];
      for (size_t t = 0; t < topics; ++t)
        likelihood.push_back(std::log(kAmbiguousShare * (source_given(source, t) / reach(before, source) +
                                                         source_given(next, t) / reach(source, next))));
    }
  }
}

const std::string& SyntheticCorpus::word(Draw& draw, Part part, int32_t topic) const {
  if (!draw.chance(kTopicalShare)) return draw.of(shared().parts[part]);
  const uint64_t topics = topics_.size();
  auto source = static_cast<size_t>(topic);
  if (draw.chance(options_.difficulty)) source = draw.below(topics);
  if (part == kNoun && draw.chance(kAmbiguousShare)) {
    const std::vector<std::string>&before = ambiguous_[(source + topics - 1) % topics], &own = ambiguous_[source];
    const uint64_t i = draw.below(before.size() + own.size());
    return i < before.size() ? before[i] : own[i - before.size()];
  }
  return draw.of(topics_[source].words[part]);
}

void SyntheticCorpus::sentence(Draw& draw, std::string_view pattern, int32_t topic, std::string& text) const {
  bool first = true;
  for (size_t begin = 0; begin < pattern.size();) {
    size_t end = pattern.find(' ', begin);
    if (end == std::string_view::npos) end = pattern.size();
    const std::string_view symbol = pattern.substr(begin, end - begin);
    begin = end + 1;
    std::string piece;
    if (symbol == "N") {
      piece = word(draw, kNoun, topic);
    } else if (symbol == "V") {
      piece = word(draw, kVerb, topic);
    } else if (symbol == "A") {
      piece = word(draw, kAdjective, topic);
    } else if (symbol == "R") {
      piece = draw.of(shared().adverbs);
    } else if (symbol == "P") {
      piece = draw.syllables(1 + draw.below(2)) + "o";  // no list has a word that ends like this
      piece[0] = static_cast<char>(piece[0] - 'a' + 'A');
    } else if (symbol == "#") {
      piece = std::to_string(2 + draw.below(draw.chance(0.5) ? 30 : 2000));
    } else {
      piece = symbol;
    }
    if (first && piece[0] >= 'a' && piece[0] <= 'z') piece[0] = static_cast<char>(piece[0] - 'a' + 'A');
    const bool attached = piece == "." || piece == "," || piece == ":";
    if (!text.empty() && !(attached && !first)) text += ' ';
    text += piece;
    first = false;
  }
}

SyntheticCorpus::Row SyntheticCorpus::row(uint32_t stream, int64_t row) const {
  CHECK(stream < 2 && row >= 0 && row < 0x7FFFFFFF, "synthetic corpus: no row {} of stream {}", row, stream);
  Draw draw{options_.seed, purpose::kSynthetic, stream << 31 | static_cast<uint32_t>(row)};
  Row made{"", static_cast<int32_t>(row % options_.topics)};
  sentence(draw, kTitles[draw.below(std::size(kTitles))], made.topic, made.text);
  made.text += " -";
  // Words of the body: most rows near 37, one in sixteen up to three times as long (AG News: median 50 pieces, 0.7
  // % past 128).
  double words = 37 + 9 * draw.normal();
  if (draw.chance(1.0 / 16)) words *= 1 + 2 * static_cast<double>(draw.below(1000)) / 1000;
  const auto wanted = static_cast<int64_t>(std::clamp(words, 8.0, 160.0));
  for (int64_t have = 0; have < wanted; have = std::count(made.text.begin(), made.text.end(), ' '))
    sentence(draw, kSentences[draw.below(std::size(kSentences))], made.topic, made.text);
  return made;
}

std::vector<double> SyntheticCorpus::posterior(std::string_view text) const {
  std::vector<double> logit(topics_.size(), 0.0);
  std::string key;
  for_each_word(text, true, [&](std::string_view word) {
    key = word;
    const auto at = log_likelihood_.find(key);
    if (at == log_likelihood_.end()) return;
    for (size_t t = 0; t < logit.size(); ++t) logit[t] += at->second[t];
  });
  const double most = *std::max_element(logit.begin(), logit.end());
  double sum = 0;
  for (double& l : logit) sum += l = std::exp(l - most);
  for (double& l : logit) l /= sum;
  return logit;
}

uint64_t synthetic_key(const DatasetOptions& options) {
  return hash_bytes(fmt::format("synthetic 1|{}|{}|{}|{}|{}", options.topics, options.synthetic_rows,
                                options.synthetic_test_rows, options.difficulty, options.synthetic_seed));
}

TextDataset load_synthetic(const DatasetOptions& options, BadRows&) {
  if (std::min(options.synthetic_rows, options.synthetic_test_rows) < options.topics)
    fail_input("synthetic corpus: expected at least a row a topic in train and test, got {} and {} for {} topics",
               options.synthetic_rows, options.synthetic_test_rows, options.topics);
  const SyntheticOptions o{options.topics, options.difficulty, static_cast<uint64_t>(options.synthetic_seed)};
  const SyntheticCorpus corpus(o);
  const auto generate = [&](uint32_t stream, int64_t rows) {
    TextSplit split;
    split.texts.resize(static_cast<size_t>(rows)), split.labels.resize(static_cast<size_t>(rows));
    parallel_for(rows, 256, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        SyntheticCorpus::Row row = corpus.row(stream, r);
        split.texts[static_cast<size_t>(r)] = std::move(row.text);
        split.labels[static_cast<size_t>(r)] = row.topic;
      }
    });
    return split;
  };
  TextDataset data;
  data.class_names = corpus.class_names();
  data.train = generate(0, options.synthetic_rows);
  data.test = generate(1, options.synthetic_test_rows);
  data.is_synthetic = true;
  // The expected accuracy of the best classifier on these very texts: the mean of the largest posterior.
  double sum = 0;
  for (const std::string& text : data.test.texts) {
    const std::vector<double> p = corpus.posterior(text);
    sum += *std::max_element(p.begin(), p.end());
  }
  data.bayes_accuracy = sum / static_cast<double>(options.synthetic_test_rows);
  data.source = fmt::format("generated: {} topics, difficulty {}, seed {}", o.topics, o.difficulty, o.seed);
  return data;
}

}  // namespace glia::datasets

#include "data/tokens/vocab_trainer.h"

#include <algorithm>
#include <map>
#include <queue>

#include "data/text/utf8.h"
#include "data/tokens/word_builder.h"
#include "engine/core/check.h"
#include "engine/core/random/rng.h"

namespace glia {
namespace {

struct Word {
  std::vector<int32_t> pieces;
  int64_t count;
};

class Merger {
 public:
  // `pieces`: the single characters, those at the beginning of a word first in no particular sense; ids are
  // indices.
  Merger(std::vector<Word> words, std::vector<std::string> pieces)
      : words_(std::move(words)), pieces_(std::move(pieces)) {
    counts_.resize(pieces_.size());
    touching_.resize(pieces_.size());
    for (int32_t w = 0; w < static_cast<int32_t>(words_.size()); ++w) {
      const Word& word = words_[w];
      for (size_t i = 0; i < word.pieces.size(); ++i) {
        counts_[word.pieces[i]] += word.count;
        total_ += static_cast<double>(word.count);
        if (i > 0) change(word.pieces[i - 1], word.pieces[i], word.count, w);
      }
    }
    for (int32_t p = 0; p < static_cast<int32_t>(pairs_.size()); ++p) push(p);
  }

  // Merges the best pair and returns the new piece; "" when no pair is worth it.
  std::string merge(int64_t min_count) {
    while (!heap_.empty()) {
      const Candidate best = heap_.top();
      heap_.pop();
      const Pair pair = pairs_[best.pair];
      if (best.version != pair.version) continue;  // its counts have changed since; a newer entry is in the heap
      if (pair.count < min_count || best.gain <= 0) continue;
      const std::string text = pieces_[pair.left] + pieces_[pair.right].substr(2);
      // Two ways to the same piece ("ab"+"##c", "a"+"##bc") share its id.
      const auto [at, is_new] = by_text_.try_emplace(text, static_cast<int32_t>(pieces_.size()));
      if (is_new) {
        pieces_.push_back(text);
        counts_.push_back(0);
        touching_.emplace_back();
      }
      apply(best.pair, at->second);
      if (is_new) return text;
    }
    return "";
  }

 private:
  struct Pair {
    int32_t left, right;
    int64_t count = 0;
    uint32_t version = 0;
    std::vector<int32_t> words;  // where it was seen; may hold words that no longer have it
  };
  struct Candidate {
    double gain;
    int32_t pair;
    uint32_t version;
    bool operator<(const Candidate& o) const { return gain != o.gain ? gain < o.gain : pair > o.pair; }
  };

  int32_t pair_of(int32_t left, int32_t right) {
    const auto [at, is_new] = by_pieces_.try_emplace(
        static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right), static_cast<int32_t>(pairs_.size()));
    if (is_new) {
      pairs_.push_back({left, right, 0, 0, {}});
      touching_[left].push_back(at->second);
      if (right != left) touching_[right].push_back(at->second);
    }
    return at->second;
  }

  void change(int32_t left, int32_t right, int64_t by, int32_t word) {
    const int32_t p = pair_of(left, right);
    pairs_[p].count += by;
    if (by > 0 && (pairs_[p].words.empty() || pairs_[p].words.back() != word)) pairs_[p].words.push_back(word);
  }

  void push(int32_t p) {
    Pair& pair = pairs_[p];
    ++pair.version;
    if (pair.count <= 0) return;
    const double together = static_cast<double>(pair.count);
    const double ratio =
        static_cast<double>(counts_[pair.left]) * static_cast<double>(counts_[pair.right]) / (together * total_);
    if (ratio >= 1) return;  // seen together less often than by chance
    heap_.push({-together * rng_detail::log_exact(ratio), p, pair.version});
  }

  void apply(int32_t p, int32_t merged) {
    const int32_t left = pairs_[p].left, right = pairs_[p].right;
    const std::vector<int32_t> places = std::move(pairs_[p].words);
    pairs_[p].words.clear();
    std::vector<int32_t> touched;
    for (const int32_t w : places) {
      Word& word = words_[w];
      std::vector<int32_t> after;
      for (size_t i = 0; i < word.pieces.size(); ++i) {
        if (i + 1 < word.pieces.size() && word.pieces[i] == left && word.pieces[i + 1] == right) {
          after.push_back(merged);
          ++i;
        } else {
          after.push_back(word.pieces[i]);
        }
      }
      if (after.size() == word.pieces.size()) continue;
      for (size_t i = 1; i < word.pieces.size(); ++i) change(word.pieces[i - 1], word.pieces[i], -word.count, w);
      for (size_t i = 1; i < after.size(); ++i) change(after[i - 1], after[i], word.count, w);
      const auto merges = static_cast<int64_t>(word.pieces.size() - after.size()) * word.count;
      counts_[left] -= merges, counts_[right] -= merges, counts_[merged] += merges;
      for (const auto* side : {&word.pieces, &after})
        for (size_t i = 1; i < side->size(); ++i) touched.push_back(pair_of((*side)[i - 1], (*side)[i]));
      word.pieces = std::move(after);
    }
    // Counts of the three pieces went into the gain of every pair that they are part of.
    for (const int32_t piece : {left, right, merged})
      touched.insert(touched.end(), touching_[piece].begin(), touching_[piece].end());
    std::sort(touched.begin(), touched.end());
    touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
    for (const int32_t t : touched) push(t);
  }

  std::vector<Word> words_;
  std::vector<std::string> pieces_;
  std::vector<int64_t> counts_;                 // of each piece in the text
  std::vector<std::vector<int32_t>> touching_;  // pairs that a piece is part of
  std::vector<Pair> pairs_;
  std::unordered_map<uint64_t, int32_t> by_pieces_;
  std::unordered_map<std::string, int32_t> by_text_;
  std::priority_queue<Candidate> heap_;
  double total_ = 0;
};

}  // namespace

void VocabTrainer::add(std::string_view text) {
  for_each_word(text, lowercase_, [&](std::string_view word) {
    ++words_;
    const auto at = counts_.find(word);
    if (at != counts_.end()) ++at->second;
    else counts_.emplace(word, 1);
  });
}

std::vector<std::string> VocabTrainer::train(const VocabTrainerOptions& options) const {
  if (counts_.empty()) fail_input("vocabulary trainer: expected text, got no word");
  // The order of a hash map is nobody's; the words are sorted.
  std::vector<std::pair<std::string_view, int64_t>> sorted(counts_.begin(), counts_.end());
  std::sort(sorted.begin(), sorted.end());

  std::map<uint32_t, int64_t> characters;
  for (const auto& [word, count] : sorted)
    for (const char *p = word.data(), *end = p + word.size(); p < end;) characters[utf8::decode(p, end)] += count;
  std::vector<std::pair<int64_t, uint32_t>> frequent;
  for (const auto& [code, count] : characters)
    if (count >= options.min_count) frequent.emplace_back(-count, code);
  std::sort(frequent.begin(), frequent.end());
  if (static_cast<int64_t>(frequent.size()) > options.max_characters)
    frequent.resize(static_cast<size_t>(options.max_characters));
  std::vector<uint32_t> alphabet;
  for (const auto& [count, code] : frequent) alphabet.push_back(code);
  std::sort(alphabet.begin(), alphabet.end());

  std::vector<std::string> tokens{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}, pieces;
  const auto needed = static_cast<int64_t>(tokens.size() + 2 * alphabet.size());
  if (options.size < needed)
    fail_input("vocabulary trainer: expected a size of at least {} (the characters and special tokens), got {}",
               needed, options.size);
  std::map<uint32_t, int32_t> index;
  for (const bool continues : {false, true})
    for (const uint32_t code : alphabet) {
      if (!continues) index[code] = static_cast<int32_t>(pieces.size());
      std::string piece = continues ? "##" : "";
      utf8::append(piece, code);
      pieces.push_back(piece);
    }
  tokens.insert(tokens.end(), pieces.begin(), pieces.end());

  std::vector<Word> words;
  for (const auto& [text, count] : sorted) {
    Word word{{}, count};
    bool known = true;
    for (const char *p = text.data(), *end = p + text.size(); p < end && known;) {
      const auto at = index.find(utf8::decode(p, end));
      known = at != index.end();
      if (known)
        word.pieces.push_back(at->second + (word.pieces.empty() ? 0 : static_cast<int32_t>(alphabet.size())));
    }
    if (known && word.pieces.size() > 1) words.push_back(std::move(word));
  }
  Merger merger(std::move(words), pieces);
  while (static_cast<int64_t>(tokens.size()) < options.size) {
    std::string piece = merger.merge(options.min_count);
    if (piece.empty()) break;
    tokens.push_back(std::move(piece));
    if (options.progress) options.progress(static_cast<int64_t>(tokens.size()), options.size);
  }
  return tokens;
}

}  // namespace glia

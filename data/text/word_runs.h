// Whether texts share a run of words: what was tested on must not have been pretrained on.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace glia {

// Runs of `length` words of some texts, words being runs of letters and digits (letter_words.h). So spelling with and without spaces
// around punctuation is the same, and so are kinds of quotation marks. Texts of fewer words have no run.
class WordRuns {
 public:
  explicit WordRuns(int64_t length);
  void add(std::string_view text);
  void settle();  // after the last add()
  bool shared_by(std::string_view text) const;
  int64_t count() const { return static_cast<int64_t>(hashes_.size()); }

 private:
  template <class F> void each(std::string_view text, F&& f) const;
  int64_t length_;
  std::vector<uint64_t> hashes_;  // sorted, distinct
  std::vector<uint64_t> filter_;  // a bit by the hash's upper bits: most runs of a text need no search
};

}  // namespace glia

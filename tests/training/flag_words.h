// Command lines of tests, written as one types them.
#pragma once
#include <sstream>
#include <string>
#include <vector>

namespace glia::test {

// A tiny model on the synthetic corpus, on the CPU, with nothing cached.
constexpr const char* kTinyFlags =
    "--device cpu --dataset synthetic --cache '' --hidden 16 --heads 2 --ffn 24 --experts 4 ";

// Words between blanks; '' is an empty one.
inline std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word == "''" ? "" : word);
  return words;
}
inline std::vector<const char*> pointers_to(const std::vector<std::string>& words) {
  std::vector<const char*> pointers;
  for (const std::string& word : words) pointers.push_back(word.c_str());
  return pointers;
}

}  // namespace glia::test

#include "nn/trained_part.h"

namespace glia {
namespace {

std::vector<std::string> patterns_of(const std::string& text) {
  std::vector<std::string> all;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) all.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return all;
}

// Which parameters each pattern of the list names; one that names none is an error.
std::vector<bool> named(const ParameterSet& set, const char* flag, const std::string& text) {
  std::vector<bool> hit(set.all().size(), false);
  for (const std::string& pattern : patterns_of(text)) {
    bool any = false;
    for (size_t i = 0; i < hit.size(); ++i)
      if (matches(pattern, set.all()[i].name)) any = hit[i] = true;
    if (!any)
      fail_input(
          "--{} {}: expected a pattern that matches a parameter (such as encoder.layer.0.* or {}), found none",
          flag, pattern, set.all().front().name);
  }
  return hit;
}

}  // namespace

// The last * can take one character more each time the rest fails: no recursion, and no worse than |pattern| · |name|.
bool matches(const std::string& pattern, const std::string& name) {
  size_t p = 0, n = 0, star = std::string::npos, taken = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++, taken = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p, ++n;
    } else if (star != std::string::npos) {
      p = star + 1, n = ++taken;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

void freeze_parameters(ParameterSet& set, const TrainedPart& part) {
  if (part.all()) return;
  const std::vector<bool> frozen = named(set, "freeze", part.freeze), trained = named(set, "train", part.train);
  bool any = false;
  for (size_t i = 0; i < frozen.size(); ++i) {
    const bool keep = trained[i] || (!part.freeze.empty() && !frozen[i]);
    if (!keep) set.freeze(set.all()[i].name);
    any = any || keep;
  }
  if (!any) fail_input("--freeze {}: nothing is left to train", part.freeze);
}

std::string describe_trained(const ParameterSet& set) {
  int64_t tensors = 0, numbers = 0;
  std::string names;
  for (const Parameter& p : set.all()) {
    if (p.frozen) continue;
    if (++tensors <= 4) names += (names.empty() ? "" : ", ") + p.name;
    numbers += p.shape.numel();
  }
  return fmt::format("trained: {} of {} tensors, {} of {} numbers: {}{}", tensors, set.all().size(), numbers,
                     set.count(), names, tensors > 4 ? ", …" : "");
}

}  // namespace glia

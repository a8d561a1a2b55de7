#include "nn/trained_part.h"

#include <charconv>
#include <cmath>

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

// Calls f(i) for each parameter that the pattern names; one that names none is an error.
template <class F>
void for_each_named(const ParameterSet& set, const char* flag, const std::string& pattern, F&& f) {
  bool any = false;
  for (size_t i = 0; i < set.all().size(); ++i)
    if (matches(pattern, set.all()[i].name)) f(i), any = true;
  if (!any)
    fail_input("--{} {}: expected a pattern that matches a parameter (such as encoder.layer.0.* or {}), found none",
               flag, pattern, set.all().front().name);
}

// Which parameters the patterns of the list name.
std::vector<bool> named(const ParameterSet& set, const char* flag, const std::string& text) {
  std::vector<bool> hit(set.all().size(), false);
  for (const std::string& pattern : patterns_of(text))
    for_each_named(set, flag, pattern, [&](size_t i) { hit[i] = true; });
  return hit;
}

// Calls f(parameter's name, value) for what each "PATTERN=VALUE" of the list names.
template <class F> void for_each_value(const ParameterSet& set, const char* flag, const std::string& text, F&& f) {
  for (const std::string& entry : patterns_of(text)) {
    const size_t equals = entry.rfind('=');
    double value = -1;
    const char *begin = entry.data() + (equals == std::string::npos ? entry.size() : equals + 1),
               *end = entry.data() + entry.size();
    const auto [stop, error] = std::from_chars(begin, end, value);
    if (error != std::errc{} || stop != end || !(value >= 0) || std::isinf(value))
      fail_input("--{} {}: expected PATTERN=VALUE with a number of 0 or more", flag, entry);
    for_each_named(set, flag, entry.substr(0, equals), [&](size_t i) { f(set.all()[i].name, value); });
  }
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

namespace {

void freeze_parameters(ParameterSet& set, const TrainedPart& part) {
  if (part.freeze.empty() && part.train.empty()) return;
  const std::vector<bool> frozen = named(set, "freeze", part.freeze), trained = named(set, "train", part.train);
  bool any = false;
  for (size_t i = 0; i < frozen.size(); ++i) {
    const bool keep = trained[i] || (!part.freeze.empty() && !frozen[i]);
    if (!keep) set.freeze(set.all()[i].name);
    any = any || keep;
  }
  if (!any) fail_input("--freeze {}: nothing is left to train", part.freeze);
}

// "; a rate of 0.0001: 1,234 numbers", and so on.
std::string describe_groups(const ParameterSet& set) {
  std::string text;
  for (const ParameterGroup& g : set.groups()) {
    int64_t numbers = 0;
    for (const Parameter& p : set.all())
      if (!p.frozen && p.rate == g.rate && p.weight_decay == g.weight_decay) numbers += p.shape.numel();
    text += "; ";
    if (g.rate >= 0) text += fmt::format("a rate of {} ", g.rate);
    if (g.weight_decay >= 0) text += fmt::format("{}a decay of {} ", g.rate >= 0 ? "and " : "", g.weight_decay);
    text += fmt::format("for {} numbers", numbers);
  }
  return text;
}

}  // namespace

void choose_trained(ParameterSet& set, const TrainedPart& part) {
  freeze_parameters(set, part);
  for_each_value(set, "lr-of", part.rates, [&](const std::string& name, double v) { set.set_rate(name, v); });
  for_each_value(set, "weight-decay-of", part.decays,
                 [&](const std::string& name, double v) { set.set_weight_decay(name, v); });
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
                     set.count(), names, tensors > 4 ? ", …" : "") +
         describe_groups(set);
}

}  // namespace glia

#include "experiments/report/answer.h"

#include <fmt/format.h>

#include <algorithm>

#include "experiments/report/tables.h"

namespace glia::results {
namespace {

constexpr double kSignificant = 0.05;

struct Wording {
  std::string what;      // "accuracy"
  double scale;          // of a difference
  const char* unit;      // behind it
  int digits, decimals;  // of the values, of a scaled difference
};

// Of each configuration: "3 seeds", or "1 to 3 seeds" where some are missing.
std::string seeds_text(const Summary& s) {
  const auto [least, most] =
      std::ranges::minmax_element(s.configs, {}, [](const ConfigSummary& c) { return c.seeds.size(); });
  const size_t low = least->seeds.size(), high = most->seeds.size();
  return fmt::format("{}{} seed{}", low == high ? "" : fmt::format("{} to ", low), high, high == 1 ? "" : "s");
}

std::string answer(const Summary& s, const std::string& metric, const std::string& baseline, const Wording& w) {
  const ConfigSummary* base = s.find(baseline);
  if (!base || !base->find(metric)) return "";
  double low = 1e300, high = -1e300;
  std::string different;
  int compared = 0, tested = 0;
  for (const ConfigSummary& c : s.configs) {
    const Metric* m = c.find(metric);
    if (!m) continue;
    low = std::min(low, *m->estimate.mean), high = std::max(high, *m->estimate.mean);
    const Comparison* vs = c.against(metric, baseline);
    if (!vs) continue;
    ++compared;
    if (!vs->welch_holm) continue;
    ++tested;
    if (*vs->welch_holm >= kSignificant) continue;
    const std::string p = format_p(vs->welch_holm);
    different += fmt::format("{}{} ({:+.{}f}{}, p {}{})", different.empty() ? "" : ", ", c.config,
                             w.scale * *vs->difference, w.decimals, w.unit, p[0] == '<' ? "" : "= ", p);
  }
  if (compared == 0) return "";
  const std::string range = fmt::format("the means lie between {:.{}f} and {:.{}f}", low, w.digits, high, w.digits);
  if (tested == 0)
    return fmt::format("In {} nothing can be told from chance yet ({} each, no tests): {}.", w.what, seeds_text(s),
                       range);
  if (different.empty())
    return fmt::format(
        "In {} no configuration differs from {} beyond chance (Welch, Holm-corrected, p < 0.05, {}): {}.", w.what,
        baseline, seeds_text(s), range);
  return fmt::format("In {} these differ from {} beyond chance (Welch, Holm-corrected, {}): {}; {}.", w.what,
                     baseline, seeds_text(s), different, range);
}

// Whether the configurations differ at all, with a space in front: what pairs cannot tell from chance all of them together may. All runs
// of a seed share weights and the order of rows, so that the seed is a block.
std::string taken_together(const Summary& s, const std::string& metric) {
  std::vector<statistics::Sample> rows;
  for (const ConfigSummary& c : s.configs)
    if (const Metric* m = c.find(metric); m && m->seeds == s.seeds) rows.push_back(m->values);
  if (rows.size() < 3 || s.seeds.size() < size_t(kLeastSeeds)) return "";
  const auto test = statistics::block_f_test(rows);
  if (!test) return "";
  const std::string p = format_p(test->p);
  return fmt::format(
      " Taken together the {} configurations that have all {} seeds {} (F = {:.1f} on {:g} and {:g} degrees of freedom, the seed as a "
      "block, p {}{}).",
      rows.size(), s.seeds.size(), test->p < kSignificant ? "differ" : "do not differ beyond chance", test->f,
      test->df, test->rest_df, p[0] == '<' ? "" : "= ", p);
}

std::string answer_with_all(const Summary& s, const std::string& metric, const Wording& w) {
  const std::string text = answer(s, metric, s.study.accuracy_baseline(), w);
  return text.empty() ? text : text + taken_together(s, metric);
}

}  // namespace

std::string accuracy_answer(const Summary& s) {
  if (std::string words = answer_with_all(s, "word_loss", {"the loss a word", 1, " nats", 4, 4}); !words.empty())
    return words;  // what a language model is measured by
  return answer_with_all(s, "accuracy", {"test accuracy", 100, " points", 4, 2});
}

std::string routing_answer(const Summary& s) {
  if (s.layers == 0) return "";
  return answer(s, layer_metric(kSpecialisation, s.layers), s.study.routing_baseline(),
                {"the last layer's specialisation", 1, "", 4, 4});
}

std::vector<std::string> answers(const Summary& s) {
  std::vector<std::string> all = {accuracy_answer(s), routing_answer(s)};
  std::erase(all, "");
  return all;
}

}  // namespace glia::results

#include "experiments/analysis/agreement.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/check.h"
#include "engine/core/random/rng.h"
#include "experiments/analysis/trace_file.h"
#include "experiments/report/pictures/heatmap.h"

namespace glia::results {
namespace {

constexpr int64_t kMostCounts = 64 << 20;  // of all pairs of layers: half a gigabyte

double plogp(double p) { return p > 0 ? p * std::log(p) : 0; }

// How many of `drawn` things out of `all` are among `marked` ones: the value that u of [0, 1] stands for, by walking from the
// most probable one outwards, some deviations far.
int64_t hypergeometric(int64_t drawn, int64_t marked, int64_t all, double u) {
  const int64_t least = std::max<int64_t>(0, drawn + marked - all), most = std::min(drawn, marked);
  const auto choose = [](int64_t n, int64_t k) {
    return std::lgamma(double(n) + 1) - std::lgamma(double(k) + 1) - std::lgamma(double(n - k) + 1);
  };
  const int64_t mode =
      std::clamp(int64_t((double(drawn) + 1) * (double(marked) + 1) / (double(all) + 2)), least, most);
  const double p = std::exp(choose(marked, mode) + choose(all - marked, drawn - mode) - choose(all, drawn));
  const auto next = [&](int64_t k) {  // p(k + 1) / p(k)
    return double(marked - k) * double(drawn - k) / (double(k + 1) * double(all - marked - drawn + k + 1));
  };
  u -= p;
  double above = p, below = p;
  for (int64_t up = mode, down = mode; u > 0 && (up < most || down > least);) {
    if (up < most) {
      above *= next(up), u -= above, ++up;
      if (u <= 0) return up;
    }
    if (down > least) {
      --down, below /= next(down), u -= below;
      if (u <= 0) return down;
    }
    if (above + below < 1e-17) break;  // what rounding left of u
  }
  return mode;
}

// The experts of one token and layer, without empty slots.
std::span<const int32_t> slots_of(const TokenTrace& t, int64_t token, int layer) {
  return t.experts.subspan(size_t((token * t.layers + layer) * t.slots), size_t(t.slots));
}

void add_choices(Joint& joint, std::span<const int32_t> a, std::span<const int32_t> b) {
  const auto routed = [](std::span<const int32_t> list) {
    return std::ranges::count_if(list, [](int e) { return e >= 0; });
  };
  joint.total += double(std::max(routed(a), routed(b)));
  for (const int32_t e : a)
    for (const int32_t f : b)
      if (e >= 0 && f >= 0) joint.counts(e, f) += 1;
}

// Both sides of a comparison in memory: every permutation walks them again.
struct Side {
  std::vector<int32_t> experts;  // [N, L, K]
  std::vector<int32_t> ids;      // [N]; empty: not known
  TokenTrace trace;
  explicit Side(const TraceFile& file) {
    file.for_each_chunk([&](const TokenTrace& chunk) {
      experts.insert(experts.end(), chunk.experts.begin(), chunk.experts.end());
      for (const int32_t row : chunk.word) ids.push_back(file.word_ids()[size_t(row)]);
    });
    trace.tokens = file.tokens(), trace.layers = file.layers(), trace.slots = file.slots();
    trace.n_experts = file.n_experts(), trace.experts = experts;
  }
};

Joint joint_of(const TokenTrace& a, const TokenTrace& b, int layer, int most, const std::vector<int32_t>& order) {
  Joint joint(a.n_experts, b.n_experts);
  for (int64_t n = 0; n < a.tokens; ++n) {
    const auto x = slots_of(a, n, layer), y = slots_of(b, order.empty() ? n : order[size_t(n)], layer);
    add_choices(joint, x.first(size_t(std::min<int>(most, a.slots))),
                y.first(size_t(std::min<int>(most, b.slots))));
  }
  return joint;
}

// What even use would give: |S| |S'| / E of a token's sets S and S' are in both.
double even_overlap(const Joint& joint) {
  const std::vector<double>& counts = joint.counts.values;
  const double pairs = std::accumulate(counts.begin(), counts.end(), 0.0);
  return joint.total > 0 ? pairs / (joint.counts.rows * joint.total) : 0;
}

}  // namespace

double matched_overlap(const Joint& joint) {
  if (!(joint.total > 0)) return 0;
  const int n = std::max(joint.counts.rows, joint.counts.cols);
  std::vector<double> cost(size_t(n) * size_t(n), 0.0);
  for (int e = 0; e < joint.counts.rows; ++e)
    for (int f = 0; f < joint.counts.cols; ++f) cost[size_t(e) * size_t(n) + size_t(f)] = -joint.counts(e, f);
  const std::vector<int> match = best_assignment(cost, n);
  double shared = 0;
  for (int e = 0; e < n; ++e) shared -= cost[size_t(e) * size_t(n) + size_t(match[size_t(e)])];
  return shared / joint.total;
}

double same_overlap(const Joint& joint) {
  double shared = 0;
  for (int e = 0; e < std::min(joint.counts.rows, joint.counts.cols); ++e) shared += joint.counts(e, e);
  return joint.total > 0 ? shared / joint.total : 0;
}

double normalised_information(const Joint& joint) {
  const Matrix& m = joint.counts;
  const double total = std::accumulate(m.values.begin(), m.values.end(), 0.0);
  if (!(total > 0)) return 0;
  std::vector<double> rows(size_t(m.rows), 0.0), cols(size_t(m.cols), 0.0);
  double together = 0, left = 0, right = 0;
  for (int e = 0; e < m.rows; ++e)
    for (int f = 0; f < m.cols; ++f) {
      const double p = m(e, f) / total;
      rows[size_t(e)] += p, cols[size_t(f)] += p;
      together -= plogp(p);
    }
  for (const double p : rows) left -= plogp(p);
  for (const double p : cols) right -= plogp(p);
  return left + right > 0 ? std::clamp(2 * (left + right - together) / (left + right), 0.0, 1.0) : 1;
}

std::vector<LayerPair> layer_pairs(int layers, int n_experts) {
  std::vector<LayerPair> pairs;
  const bool all = int64_t{layers} * (layers - 1) * n_experts * n_experts <= kMostCounts;
  for (int a = 0; a < layers; ++a)
    for (int b = a + 1; b < (all ? layers : std::min(layers, a + 2)); ++b) pairs.emplace_back(a, b, n_experts);
  return pairs;
}

std::vector<int32_t> first_choices(const TokenTrace& t) {
  std::vector<int32_t> first(size_t(t.layers) * size_t(t.tokens));
  for (int64_t n = 0; n < t.tokens; ++n)
    for (int l = 0; l < t.layers; ++l)
      first[size_t(l) * size_t(t.tokens) + size_t(n)] = t.experts[size_t((n * t.layers + l) * t.slots)];
  return first;
}

void add(LayerPair& pair, const std::vector<int32_t>& first, int64_t tokens) {
  const int32_t *a = first.data() + pair.a * tokens, *b = first.data() + pair.b * tokens;
  for (int64_t n = 0; n < tokens; ++n) {
    pair.joint.total += a[n] >= 0 || b[n] >= 0;
    if (a[n] >= 0 && b[n] >= 0) pair.joint.counts(a[n], b[n]) += 1;
  }
}

Joint permuted_joint(std::vector<int64_t> rows, std::vector<int64_t> columns, uint32_t draw) {
  const size_t n = rows.size() - 1, m = columns.size() - 1;
  Joint joint{int(n), int(m)};
  int64_t left = std::accumulate(columns.begin(), columns.end(), int64_t{0});
  CHECK(left == std::accumulate(rows.begin(), rows.end(), int64_t{0}), "permuted joint counts: sides of {} tokens",
        left);
  joint.total = double(left);
  // Row by row: what a row has of a column is hypergeometric in what the rows before it left of all columns.
  for (size_t e = 0; e <= n; ++e) {
    int64_t others = left;  // of this column and those behind it
    left -= rows[e];
    for (size_t f = 0; f <= m; ++f) {
      const double u = (random_bits(0, purpose::kShuffle, draw, e * (m + 1) + f) + 0.5) * 0x1p-32;
      const int64_t both = hypergeometric(rows[e], columns[f], others, u);
      others -= columns[f], rows[e] -= both, columns[f] -= both;
      if (e < n && f < m) joint.counts(int(e), int(f)) = double(both);
      if (e == n && f == m) joint.total -= double(both);
    }
  }
  return joint;
}

double LayerAgreement::chance() const {
  return permuted.empty() ? std::nan("")
                          : std::accumulate(permuted.begin(), permuted.end(), 0.0) / double(permuted.size());
}

double LayerAgreement::p() const {
  if (permuted.empty()) return std::nan("");
  const auto above = std::ranges::count_if(permuted, [&](double x) { return x >= matched; });
  return double(1 + above) / double(1 + permuted.size());
}

std::vector<LayerAgreement> agreement(const TraceFile& a, const TraceFile& b, int permutations) {
  const auto want = [&](const char* what, auto x, auto y) {
    if (x != y) fail_input("{}: expected the {} {} of {}, got {}", b.path(), x, what, a.path(), y);
  };
  want("tokens", a.tokens(), b.tokens());
  want("layers", a.layers(), b.layers());
  want("experts", a.n_experts(), b.n_experts());
  if (a.sequences() > 0 && b.sequences() > 0 && a.offsets() != b.offsets())
    fail_input("{}: expected the sequences of {}, got others", b.path(), a.path());
  const Side left(a), right(b);
  for (size_t n = 0; n < std::min(left.ids.size(), right.ids.size()); ++n)
    if (left.ids[n] != right.ids[n])
      fail_input("{}: expected the tokens of {}, got other ids: {} for {} at token {}", b.path(), a.path(),
                 right.ids[n], left.ids[n], n);
  const int most = std::max(a.slots(), b.slots());
  std::vector<std::vector<int32_t>> orders;
  for (int i = 0; i < permutations; ++i)
    orders.push_back(random_permutation(a.tokens(), 0, purpose::kShuffle, uint32_t(i)));
  std::vector<LayerAgreement> layers(static_cast<size_t>(a.layers()));
#pragma omp parallel for schedule(dynamic)
  for (int l = 0; l < a.layers(); ++l) {
    LayerAgreement& out = layers[size_t(l)];
    const Joint first = joint_of(left.trace, right.trace, l, 1, {});
    const Joint all = joint_of(left.trace, right.trace, l, most, {});
    out.layer = l;
    out.same_first = same_overlap(first), out.same = same_overlap(all);
    out.chance_same_first = even_overlap(first), out.chance_same = even_overlap(all);
    out.matched = matched_overlap(all), out.information = normalised_information(first);
    for (const auto& order : orders)
      out.permuted.push_back(matched_overlap(joint_of(left.trace, right.trace, l, most, order)));
    std::ranges::sort(out.permuted);
  }
  return layers;
}

}  // namespace glia::results

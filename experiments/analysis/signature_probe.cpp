#include "experiments/analysis/signature_probe.h"

#include <algorithm>
#include <cmath>

#include "engine/core/check.h"
#include "engine/core/parallel.h"

namespace glia::results {
namespace {

double dot(const double* a, const double* b, int n) {
  double lanes[4] = {};  // sums that do not wait for each other; their order is fixed
  int i = 0;
  for (; i + 4 <= n; i += 4)
    for (int j = 0; j < 4; ++j) lanes[j] += a[i + j] * b[i + j];
  for (; i < n; ++i) lanes[0] += a[i] * b[i];
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

const double* row(const Matrix& m, int r) { return m.values.data() + size_t(r) * size_t(m.cols); }

// A = L Lᵀ in place (lower half), A symmetric and positive definite.
void cholesky(Matrix& a) {
  for (int j = 0; j < a.rows; ++j) {
    const double pivot = a(j, j) - dot(row(a, j), row(a, j), j);
    CHECK(pivot > 0, "probe: the ridge leaves the pivot {} of row {}", pivot, j);
    a(j, j) = std::sqrt(pivot);
    parallel_for(a.rows - j - 1, 64, [&](int64_t from, int64_t to) {
      for (int i = j + 1 + int(from); i < j + 1 + int(to); ++i)
        a(i, j) = (a(i, j) - dot(row(a, i), row(a, j), j)) / a(j, j);
    });
  }
}

// Solves L Lᵀ x = b in place.
void solve(const Matrix& l, std::vector<double>& b) {
  for (int i = 0; i < l.rows; ++i) b[size_t(i)] = (b[size_t(i)] - dot(row(l, i), b.data(), i)) / l(i, i);
  for (int i = l.rows - 1; i >= 0; --i) {
    b[size_t(i)] /= l(i, i);
    for (int j = 0; j < i; ++j) b[size_t(j)] -= l(i, j) * b[size_t(i)];
  }
}

bool trained_on(size_t row) { return static_cast<uint32_t>(row) * 2654435761u < 1u << 31; }

// The rows of one half, and their labels.
struct Half {
  std::vector<int32_t> labels;
  Matrix features;
  Half(const Matrix& all, const std::vector<int32_t>& all_labels, bool train) {
    std::vector<int> rows;
    for (size_t r = 0; r < all_labels.size(); ++r)
      if (trained_on(r) == train) rows.push_back(int(r)), labels.push_back(all_labels[r]);
    features = Matrix(int(rows.size()), all.cols);
    for (size_t i = 0; i < rows.size(); ++i)
      std::copy_n(row(all, rows[i]), all.cols, features.values.begin() + long(i) * all.cols);
  }
};

}  // namespace

std::optional<Probe> ridge_probe(const Matrix& features, const std::vector<int32_t>& labels, int topics) {
  CHECK(size_t(features.rows) == labels.size(), "probe: {} rows of features, {} labels", features.rows,
        labels.size());
  Half train(features, labels, true), test(features, labels, false);
  Matrix &x = train.features, &z = test.features;
  std::vector<double> mean(size_t(x.cols), 0.0), share(size_t(topics), 0.0);
  for (int r = 0; r < x.rows; ++r) {
    for (int i = 0; i < x.cols; ++i) mean[size_t(i)] += x(r, i) / x.rows;
    share[size_t(train.labels[size_t(r)])] += 1.0 / x.rows;
  }
  if (z.rows == 0 || std::ranges::count_if(share, [](double s) { return s > 0; }) < 2) return {};
  for (Matrix* m : {&x, &z})
    for (int r = 0; r < m->rows; ++r)
      for (int i = 0; i < m->cols; ++i) (*m)(r, i) -= mean[size_t(i)];
  // In the dual: sequences are few, features may be many.   W = Xᵀ (X Xᵀ + λ I)⁻¹ Y
  Matrix gram(x.rows, x.rows);
  double norm = 0;
  parallel_for(x.rows, 16, [&](int64_t from, int64_t to) {
    for (int i = int(from); i < int(to); ++i)
      for (int j = 0; j <= i; ++j) gram(i, j) = dot(row(x, i), row(x, j), x.cols);
  });
  for (int i = 0; i < x.rows; ++i) norm += gram(i, i) / x.rows;
  for (int i = 0; i < x.rows; ++i) gram(i, i) += std::max(kRidge * norm, 1e-12);
  cholesky(gram);
  Matrix weights(topics, x.cols);
  parallel_for(topics, 1, [&](int64_t from, int64_t to) {
    for (int c = int(from); c < int(to); ++c) {
      std::vector<double> y(static_cast<size_t>(x.rows));
      for (int r = 0; r < x.rows; ++r) y[size_t(r)] = (train.labels[size_t(r)] == c) - share[size_t(c)];
      solve(gram, y);
      for (int r = 0; r < x.rows; ++r)
        for (int i = 0; i < x.cols; ++i) weights(c, i) += y[size_t(r)] * x(r, i);
    }
  });
  int right = 0;
  std::vector<int> tested(size_t(topics), 0);
  for (int r = 0; r < z.rows; ++r) {
    int best = 0;
    double largest = 0;
    for (int c = 0; c < topics; ++c)
      if (const double score = dot(row(weights, c), row(z, r), x.cols) + share[size_t(c)];
          c == 0 || score > largest)
        best = c, largest = score;
    const int32_t label = test.labels[size_t(r)];
    right += best == label;
    ++tested[size_t(label)];
  }
  return Probe{x.rows, z.rows, double(right) / z.rows, double(*std::ranges::max_element(tested)) / z.rows};
}

Signatures::Signatures(const std::vector<int64_t>& offsets, const std::vector<int32_t>& labels, int layers,
                       int n_experts)
    : offsets_(offsets) {
  const int64_t size = int64_t{layers} * n_experts, all = int64_t(labels.size());
  const int64_t count = std::min({all, kMostSequences, std::max<int64_t>(2, kMostValues / size)});
  for (int64_t i = 0; i < count; ++i) {
    taken_.push_back(i * all / count);
    taken_labels_.push_back(labels[size_t(taken_.back())]);
  }
  features_ = Matrix(int(count), int(size));
}

void Signatures::add(const TokenTrace& t) {
  for (; at_ < taken_.size(); ++at_) {
    const int64_t begin = offsets_[size_t(taken_[at_])], end = offsets_[size_t(taken_[at_]) + 1];
    if (begin >= t.begin + t.tokens) return;
    for (int64_t n = std::max(begin, t.begin); n < std::min(end, t.begin + t.tokens); ++n)
      for (int l = 0; l < t.layers; ++l)
        for (int k = 0; k < t.slots; ++k) {
          const size_t slot = size_t(((n - t.begin) * t.layers + l) * t.slots + k);
          if (const int e = t.experts[slot]; e >= 0)
            features_(int(at_), l * t.n_experts + e) += double(t.gates[slot]) / double(end - begin);
        }
    if (end > t.begin + t.tokens) return;  // goes on in the next chunk
  }
}

std::optional<Probe> Signatures::probe(int topics) const {
  if (taken_.size() < 4) return {};
  return ridge_probe(features_, taken_labels_, topics);
}

}  // namespace glia::results

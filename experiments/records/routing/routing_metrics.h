// How specialised a layer's routing is: pure functions on utilisation matrices (docs/science.md 4), in double.
#pragma once
#include <cstddef>
#include <optional>
#include <vector>

namespace glia::results {

// Row-major. A utilisation matrix has a row a topic and a column an expert: U[c, e] is the mean gate of expert e
// over topic c's real tokens (padding out); each row sums to 1 where the router normalises its gates.
struct Matrix {
  int rows = 0, cols = 0;
  std::vector<double> values;
  Matrix() = default;
  Matrix(int rows, int cols) : rows(rows), cols(cols), values(size_t(rows) * size_t(cols)) {}
  double& operator()(int r, int c) { return values[size_t(r) * size_t(cols) + size_t(c)]; }
  double operator()(int r, int c) const { return values[size_t(r) * size_t(cols) + size_t(c)]; }
  bool operator==(const Matrix&) const = default;
};

// Whether any token of the topic was routed. A row of zeros is no measurement (the split has no row of the topic): it
// is n/a in files and pictures and enters no mean.
bool seen(const Matrix& u, int topic);

// Mean over experts of the population standard deviation (ddof = 0) over the seen topics of U[:, e].  0 when topics
// route alike; n/a when fewer than two are seen.
std::optional<double> specialisation(const Matrix& u);

// I(topic; expert) in bits, seen topics weighted equally, so that it can be computed from a utilisation file alone:
// H(mean over topics of U) − mean over topics of H(U[c, :]).  0 … log2(min(C, E)); n/a below two seen topics.
std::optional<double> mutual_information_bits(const Matrix& u);

// Entropy of the load over experts in bits: log2 E when all experts are used equally, 0 when one takes everything.
double load_entropy_bits(const std::vector<double>& loads);

// Standard deviation over mean of the experts' loads (ddof = 1, as in the balance loss). 0 for a single expert.
double load_cv(const std::vector<double>& loads);

// Largest load over the mean load, less 1 (MaxVio; Wang et al. 2024, eq. 4): 0 when even, E − 1 when one has all.
double max_violation(const std::vector<double>& loads);

// Σ_i (2i − n − 1) L_(i) / (n Σ L), loads ascending, i from 1: 0 when even, 1 − 1/n when one has all.
double gini(const std::vector<double>& loads);

// The share of all load of the 1, 2, … n busiest experts; the last is 1.                                  → [E]
std::vector<double> coverage(const std::vector<double>& loads);

// Experts with less than a hundredth of an even share (1 / E) of the load.
int dead_experts(const std::vector<double>& loads);

// Column means over the seen topics: the loads when every topic counts the same.
std::vector<double> topic_mean_loads(const Matrix& u);

}  // namespace glia::results

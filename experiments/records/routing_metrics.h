// How specialised a layer's routing is: pure functions on utilisation matrices (docs/science.md 4), in double.
#pragma once
#include <cstddef>
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

// Mean over experts of the population standard deviation (ddof = 0) over topics of U[:, e].  0 when topics route
// alike.
double specialisation(const Matrix& u);

// I(topic; expert) in bits, topics weighted equally, so that it can be computed from a utilisation file alone:
// H(mean over topics of U) − mean over topics of H(U[c, :]).  0 … log2(min(C, E)).
double mutual_information_bits(const Matrix& u);

// Entropy of the load over experts in bits: log2 E when all experts are used equally, 0 when one takes everything.
double load_entropy_bits(const std::vector<double>& loads);

// Standard deviation over mean of the experts' loads (ddof = 1, as in the balance loss). 0 for a single expert.
double load_cv(const std::vector<double>& loads);

// Experts with less than a hundredth of an even share (1 / E) of the load.
int dead_experts(const std::vector<double>& loads);

// Column means: the loads when every topic counts the same.
std::vector<double> topic_mean_loads(const Matrix& u);

struct LayerMetrics {
  double specialisation = 0, specialisation_cls = 0;                    // all tokens; CLS rows only
  double mutual_information_bits = 0, mutual_information_bits_cls = 0;  // 0 … log2(min(C, E))
  double entropy_bits = 0;                                              // of the loads: log2 E when even
  double load_cv = 0;
  int dead_experts = 0;
  double largest_share = 0;   // of the load, the busiest expert's
  std::vector<double> loads;  // [E] shares of all gate mass, sum 1
};

// `loads` are the experts' shares over all tokens (any positive scale); empty: the column means of `all`.
LayerMetrics layer_metrics(const Matrix& all, const Matrix& cls, std::vector<double> loads = {});

}  // namespace glia::results

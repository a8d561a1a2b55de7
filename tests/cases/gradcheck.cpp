#include "tests/cases/gradcheck.h"

#include <chrono>
#include <cmath>

#include "engine/core/random/rng.h"

namespace glia {
namespace {

constexpr int64_t kFew = 48;        // inputs of up to this many elements are checked one by one
constexpr int64_t kSample = 24;     // of larger ones, so many elements
constexpr int64_t kDirections = 4;  // and so many directions
constexpr double kStep = 1e-4;      // of one element; a direction moves every element by a fifth of it

using Values = std::vector<double>;

double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double largest(const Values& v) {
  double m = 0;
  for (double x : v) m = std::isfinite(x) ? std::max(m, std::abs(x)) : INFINITY;
  return m;
}

class Checker {
 public:
  Checker(Context& context, const OpCase& c, const GradcheckOptions& options, GradcheckResult& result)
      : context_(context),
        case_(c),
        options_(options),
        result_(result),
        x_(make_inputs(context, c, DType::kFloat64, options.seed)) {}

  void run() {
    std::vector<Var> vars;
    for (const Tensor& x : x_) vars.push_back(Var::parameter(x));
    const Var y = case_.run(context_, vars);
    if (!case_.gradient) {
      CHECK(!y.requires_grad(), "the row says that there is no gradient, but there is one");
      result_.verdict = GradcheckResult::Verdict::kNoGradient;
      return;
    }
    CHECK(y.requires_grad(), "the output has no gradient");
    for (int64_t i = 0; i < y.value().numel(); ++i)
      weights_.push_back(random_normal(options_.seed, purpose::kTest + 2, 0, static_cast<uint64_t>(i)));
    backward(y, from_vector(context_, weights_, y.shape(), y.dtype()));
    std::vector<Values> gradients;
    double most = 0;
    for (size_t i = 0; i < vars.size(); ++i) {
      // An input that no path reaches has gradient 0, and the differences must say so too.
      gradients.push_back(vars[i].grad().defined() ? vars[i].grad().to_vector<double>()
                                                   : Values(x_[i].numel(), 0.0));
      most = std::max(most, largest(gradients[i]));
    }
    CHECK(std::isfinite(most), "a gradient is not finite");
    plant(gradients);
    for (size_t i = 0; i < gradients.size(); ++i)
      check_input(i, gradients[i], std::max(largest(gradients[i]), 1e-3 * most));
    if (!(result_.worst <= options_.bound)) result_.verdict = GradcheckResult::Verdict::kFail;
  }

 private:
  void plant(std::vector<Values>& gradients) const {
    if (options_.plant_error != case_.name) return;
    for (Values& g : gradients)
      if (largest(g) > 0) {
        for (double& v : g) v *= 1.001;
        return;
      }
  }

  double loss() {
    const NoGrad no_grad(context_);
    std::vector<Var> vars(x_.begin(), x_.end());
    return dot(case_.run(context_, vars).value().to_vector<double>(), weights_);
  }

  // The derivative of the loss along `direction` (an input's shape) in input i.
  double difference(size_t i, const Values& at, const Values& direction, double h) {
    const auto moved = [&](double by) {
      Values v = at;
      for (size_t e = 0; e < v.size(); ++e) v[e] += by * direction[e];
      write(i, v);
      return loss();
    };
    const double near = moved(h) - moved(-h), far = moved(2 * h) - moved(-2 * h);
    write(i, at);
    return (8 * near - far) / (12 * h);
  }

  void write(size_t i, const Values& v) {
    context_.backend().copy(x_[i].raw(), v.data(), x_[i].bytes(), CopyKind::kHostToDevice);
    context_.synchronize();
  }

  void check_input(size_t i, const Values& gradient, double scale) {
    const int64_t n = static_cast<int64_t>(gradient.size());
    const Values at = x_[i].to_vector<double>();
    const auto error_of = [&](const Values& direction, double h) {
      return std::abs(difference(i, at, direction, h) - dot(gradient, direction)) / (scale + 1e-12);
    };
    const auto compare = [&](const Values& direction, double h) {
      double error = error_of(direction, h);
      // A kink, or a choice that flips, within 2h: it is not within a step so much smaller, where a wrong gradient stays.
      if (!(error <= options_.bound)) error = error_of(direction, h / 64);
      ++result_.checks;
      if (error > result_.worst || std::isnan(error))
        result_.worst = error, result_.worst_input = static_cast<int>(i);
    };
    for (int64_t k = 0; k < (n <= kFew ? n : kSample); ++k) {
      Values one(gradient.size(), 0.0);
      one[n <= kFew ? k : random_below(n, options_.seed, purpose::kTest + 3, static_cast<uint32_t>(i), k)] = 1;
      compare(one, kStep);
    }
    for (int64_t k = 0; n > kFew && k < kDirections; ++k) {
      Values signs(gradient.size());
      for (int64_t e = 0; e < n; ++e)
        signs[e] = random_bits(options_.seed, purpose::kTest + 4, static_cast<uint32_t>(i * kDirections + k), e) & 1
                       ? 1
                       : -1;
      compare(signs, kStep / 5);
    }
  }

  Context& context_;
  const OpCase& case_;
  const GradcheckOptions& options_;
  GradcheckResult& result_;
  std::vector<Tensor> x_;
  Values weights_;
};

}  // namespace

GradcheckResult gradcheck(Context& context, const OpCase& c, const GradcheckOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  GradcheckResult result;
  result.name = c.name, result.inputs = c.inputs.size();
  try {
    Checker(context, c, options, result).run();
  } catch (const std::exception& e) {
    result.verdict = GradcheckResult::Verdict::kFail;
    result.error = e.what();
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace glia

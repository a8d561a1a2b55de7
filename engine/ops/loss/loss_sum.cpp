#include "engine/ops/loss/loss_sum.h"

#include "engine/ops/loss/loss_sum_kernels.h"

namespace glia {
namespace {

template <class T> LossTerms<T> pack(const std::vector<LossTerm>& terms, const std::vector<double>& weights) {
  LossTerms<T> l{};
  l.terms = static_cast<int>(terms.size());
  l.parts = static_cast<int>(weights.size());
  std::copy(weights.begin(), weights.end(), l.weight);
  for (size_t i = 0; i < terms.size(); ++i) {
    l.values[i] = terms[i].values.value().data<T>();
    l.scale[i] = terms[i].scale;
    l.size[i] = static_cast<int8_t>(terms[i].part.size());
    for (size_t j = 0; j < terms[i].part.size(); ++j) l.part[i][j] = static_cast<int8_t>(terms[i].part[j]);
  }
  return l;
}

}  // namespace

// d value = dtotal · weight[part] · scale
LossSum sum_losses(const std::vector<LossTerm>& terms, const std::vector<double>& weights) {
  CHECK(!terms.empty() && terms.size() <= kMaxLossTerms && weights.size() <= kMaxLossParts,
        "sum_losses: wants 1 to {} terms and at most {} parts, got {} and {}", kMaxLossTerms, kMaxLossParts,
        terms.size(), weights.size());
  const DType dtype = terms[0].values.dtype();
  CHECK(dtype == DType::kFloat32 || dtype == DType::kFloat64, "sum_losses: wants float32 or float64, got {}",
        dtype);
  std::vector<Var> inputs;
  std::vector<Shape> shapes;
  for (const LossTerm& t : terms) {
    CHECK(t.values.dtype() == dtype && t.values.rank() <= 1 && t.values.value().numel() <= kMaxLossElements &&
              t.values.value().numel() == static_cast<int64_t>(t.part.size()),
          "sum_losses: a term of {} {} with {} parts among {}", t.values.dtype(), t.values.shape(), t.part.size(),
          dtype);
    for (const int p : t.part)
      CHECK(p >= 0 && p < static_cast<int>(weights.size()), "sum_losses: there is no part {}", p);
    inputs.push_back(t.values);
    shapes.push_back(t.values.shape());
  }
  Context& context = terms[0].values.context();
  LossSum result;
  result.parts = empty(context, {static_cast<int64_t>(weights.size())}, dtype);
  Tensor total = empty(context, {}, dtype);
  const auto run = [&]<class T>(TypeTag<T>) {
    const LossTerms<T> l = pack<T>(terms, weights);
    T *sum = total.data<T>(), *parts = result.parts.data<T>();
    on_device(
        context, "sum_losses", [&] { cpu::sum_losses(l, sum, parts); },
        [&](auto& cuda) { cuda::sum_losses(l, sum, parts, cuda.stream); });
    result.total = record("sum_losses", total, inputs, [l, shapes](const Tensor& dy, Grads& in) {
      Tensor all = empty(dy.context(), {l.terms, kMaxLossElements}, dy.dtype());
      const T* d = dy.data<T>();
      on_device(
          dy.context(), "sum_losses_backward", [&] { cpu::sum_losses_backward(l, d, all.data<T>()); },
          [&](auto& cuda) { cuda::sum_losses_backward(l, d, all.data<T>(), cuda.stream); });
      const Tensor flat = all.reshape({-1});
      for (int i = 0; i < l.terms; ++i) {
        const int64_t first = i * kMaxLossElements;
        in.add(i, flat.rows(first, first + l.size[i]).reshape(shapes[i]));
      }
    });
  };
  if (dtype == DType::kFloat64) run(TypeTag<double>{});
  else run(TypeTag<float>{});
  return result;
}

namespace cpu {

template <class T> void sum_losses(const LossTerms<T>& l, T* total, T* parts) {
  double sum = 0;
  for (int p = 0; p < l.parts; ++p) {
    double part = 0;
    for (int i = 0; i < l.terms; ++i)
      for (int j = 0; j < l.size[i]; ++j)
        if (l.part[i][j] == p) part += l.scale[i] * l.values[i][j];
    parts[p] = static_cast<T>(part);
    sum += l.weight[p] * part;
  }
  *total = static_cast<T>(sum);
}

template <class T> void sum_losses_backward(const LossTerms<T>& l, const T* dtotal, T* dvalues) {
  for (int i = 0; i < l.terms; ++i)
    for (int j = 0; j < l.size[i]; ++j)
      dvalues[i * kMaxLossElements + j] = static_cast<T>(*dtotal * l.weight[l.part[i][j]] * l.scale[i]);
}

template void sum_losses(const LossTerms<float>&, float*, float*);
template void sum_losses(const LossTerms<double>&, double*, double*);
template void sum_losses_backward(const LossTerms<float>&, const float*, float*);
template void sum_losses_backward(const LossTerms<double>&, const double*, double*);

}  // namespace cpu

}  // namespace glia

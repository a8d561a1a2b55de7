#include "engine/ops/loss/loss_sum.h"

#include <algorithm>

#include "engine/ops/loss/loss_sum_kernels.h"

namespace glia {
namespace {

// Pieces of at most kMaxLossElements elements, which point into the terms.
struct Piece {
  size_t term;
  int64_t first, size;
};

std::vector<Piece> pieces_of(const std::vector<LossTerm>& terms) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < terms.size(); ++i)
    for (int64_t first = 0, n = terms[i].values.value().numel(); first < n; first += kMaxLossElements)
      pieces.push_back({i, first, std::min<int64_t>(kMaxLossElements, n - first)});
  return pieces;
}

template <class T>
std::vector<LossTerms<T>> pack(const std::vector<LossTerm>& terms, const std::vector<double>& weights,
                               const std::vector<Piece>& pieces, const Tensor& running) {
  std::vector<LossTerms<T>> groups;
  for (size_t begin = 0; begin < pieces.size(); begin += kMaxLossTerms) {
    LossTerms<T> l{};
    l.terms = static_cast<int>(std::min<size_t>(kMaxLossTerms, pieces.size() - begin));
    l.parts = static_cast<int>(weights.size());
    l.first = begin == 0;
    l.last = begin + kMaxLossTerms >= pieces.size();
    l.running = data_or_null<double>(running);
    std::copy(weights.begin(), weights.end(), l.weight);
    for (int i = 0; i < l.terms; ++i) {
      const Piece& piece = pieces[begin + static_cast<size_t>(i)];
      const LossTerm& term = terms[piece.term];
      l.values[i] = term.values.value().data<T>() + piece.first;
      l.scale[i] = term.scale;
      l.size[i] = static_cast<int8_t>(piece.size);
      for (int64_t j = 0; j < piece.size; ++j)
        l.part[i][j] = static_cast<int8_t>(term.part[static_cast<size_t>(piece.first + j)]);
    }
    groups.push_back(l);
  }
  return groups;
}

}  // namespace

// d value = dtotal · weight[part] · scale
LossSum sum_losses(const std::vector<LossTerm>& terms, const std::vector<double>& weights) {
  CHECK(!terms.empty() && weights.size() <= kMaxLossParts,
        "sum_losses: wants a term at least and at most {} parts, got {} and {}", kMaxLossParts, terms.size(),
        weights.size());
  const DType dtype = terms[0].values.dtype();
  CHECK(dtype == DType::kFloat32 || dtype == DType::kFloat64, "sum_losses: wants float32 or float64, got {}",
        dtype);
  std::vector<Var> inputs;
  std::vector<Shape> shapes;
  for (const LossTerm& t : terms) {
    CHECK(t.values.dtype() == dtype && t.values.rank() <= 1 &&
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
  const std::vector<Piece> pieces = pieces_of(terms);
  const Tensor running = pieces.size() > kMaxLossTerms
                             ? empty(context, {static_cast<int64_t>(weights.size())}, DType::kFloat64)
                             : Tensor();
  const auto run = [&]<class T>(TypeTag<T>) {
    const std::vector<LossTerms<T>> groups = pack<T>(terms, weights, pieces, running);
    T *sum = total.data<T>(), *parts = result.parts.data<T>();
    for (const LossTerms<T>& l : groups)
      on_device(
          context, "sum_losses", [&] { cpu::sum_losses(l, sum, parts); },
          [&](auto& cuda) { cuda::sum_losses(l, sum, parts, cuda.stream); });
    result.total = record("sum_losses", total, inputs, [groups, pieces, shapes](const Tensor& dy, Grads& in) {
      // [pieces, kMaxLossElements]: the pieces of one term lie one behind the other, and all but the last are full.
      Tensor all = empty(dy.context(), {static_cast<int64_t>(pieces.size()), kMaxLossElements}, dy.dtype());
      const T* d = dy.data<T>();
      for (size_t g = 0; g < groups.size(); ++g) {
        T* to = all.data<T>() + g * kMaxLossTerms * kMaxLossElements;
        on_device(
            dy.context(), "sum_losses_backward", [&] { cpu::sum_losses_backward(groups[g], d, to); },
            [&](auto& cuda) { cuda::sum_losses_backward(groups[g], d, to, cuda.stream); });
      }
      const Tensor flat = all.reshape({-1});
      for (size_t i = 0; i < pieces.size(); ++i) {
        if (pieces[i].first > 0) continue;
        const int64_t first = static_cast<int64_t>(i) * kMaxLossElements;
        const Shape& shape = shapes[pieces[i].term];
        in.add(pieces[i].term, flat.rows(first, first + shape.numel()).reshape(shape));
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
    const double part = sum_of_part(l, p);
    parts[p] = static_cast<T>(part);
    sum += l.weight[p] * part;
  }
  if (l.last) *total = static_cast<T>(sum);
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

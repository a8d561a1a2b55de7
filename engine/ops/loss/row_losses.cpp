#include "engine/ops/loss/row_losses.h"

#include "engine/core/parallel.h"
#include "engine/ops/loss/row_losses_kernels.h"

namespace glia {
namespace {

// make(tag) gives the loss {value, gradient} in the logits' type; `kept` is what it points into.
template <class Make>
Var row_loss(const char* name, const Var& logits, const Sequences& q, Tensor kept, Make make) {
  CHECK(logits.rank() == 2 && logits.size(0) == q.tokens && logits.size(1) >= 1, "{}: wants logits [{}, E], got {}",
        name, q.tokens, logits.shape());
  CHECK(logits.dtype() == DType::kFloat32 || logits.dtype() == DType::kFloat64,
        "{}: wants float32 or float64, got {}", name, logits.dtype());
  const auto with_type = [](DType t, auto f) {
    if (t == DType::kFloat32) f(TypeTag<float>{});
    else f(TypeTag<double>{});
  };
  const Tensor x = logits.value(), of = q.sequence_of, real = q.offsets.rows(q.count, q.count + 1);
  const RowLossShape shape{q.tokens, logits.size(1), of.data<int32_t>(), real.data<int32_t>()};
  Tensor sum = empty(x.context(), {1}, x.dtype());
  with_type(x.dtype(), [&]<class T>(TypeTag<T> tag) {
    on_device(
        x.context(), name, [&] { cpu::row_loss(shape, make(tag), x.data<T>(), sum.data<T>()); },
        [&](auto& cuda) { cuda::row_loss(shape, make(tag), x.data<T>(), sum.data<T>(), cuda.stream); });
  });
  // `of`, `real` and `kept` are captured for the memory that `shape` and the loss point into.
  return record(name, sum, {logits}, [=](const Tensor& dy, Grads& in) {
    static_cast<void>(of), static_cast<void>(real), static_cast<void>(kept);
    Tensor dx = in.buffer(0);
    with_type(x.dtype(), [&]<class T>(TypeTag<T> tag) {
      on_device(
          x.context(), name,
          [&] { cpu::row_loss_gradient(shape, make(tag), x.data<T>(), dy.data<T>(), dx.data<T>()); },
          [&](auto& cuda) {
            cuda::row_loss_gradient(shape, make(tag), x.data<T>(), dy.data<T>(), dx.data<T>(), cuda.stream);
          });
    });
    in.add(0, dx);
  });
}

}  // namespace

Var z_loss(const Var& logits, const Sequences& q) {
  return row_loss("z_loss", logits, q, {}, []<class T>(TypeTag<T>) { return ZLoss<T>{}; });
}

Var switch_loss(const Var& logits, const Tensor& counts, int64_t per_token, const Sequences& q) {
  CHECK(logits.rank() == 2 && counts.shape() == Shape{logits.size(1)} && counts.dtype() == logits.dtype() &&
            per_token >= 1,
        "switch_loss: wants logits [T, E] and counts {} [E], got {} and {} {}", logits.dtype(), logits.shape(),
        counts.dtype(), counts.shape());
  const double factor = static_cast<double>(logits.size(1)) / static_cast<double>(per_token);
  return row_loss("switch_loss", logits, q, counts, [=]<class T>(TypeTag<T>) {
    return SwitchLoss<T>{counts.data<T>(), factor};
  });
}

Var entropy_loss(const Var& logits, const Sequences& q) {
  return row_loss("entropy_loss", logits, q, {}, []<class T>(TypeTag<T>) { return EntropyLoss<T>{}; });
}

namespace cpu {

template <class L, class T> void row_loss(const RowLossShape& s, const L& loss, const T* logits, T* to) {
  double sum = 0;
  for (int64_t t = 0; t < s.tokens; ++t)
    if (s.sequence_of[t] >= 0) sum += loss.value(logits + t * s.experts, s.experts, static_cast<double>(*s.real));
  *to = static_cast<T>(sum / *s.real);
}

template <class L, class T>
void row_loss_gradient(const RowLossShape& s, const L& loss, const T* logits, const T* dloss, T* dlogits) {
  parallel_for(s.tokens, 1024, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      T* to = dlogits + t * s.experts;
      if (s.sequence_of[t] < 0) std::fill_n(to, s.experts, T(0));
      else
        loss.gradient(logits + t * s.experts, s.experts, static_cast<double>(*dloss), static_cast<double>(*s.real),
                      to);
    }
  });
}

}  // namespace cpu

}  // namespace glia

#include "engine/ops/loss/z_loss.h"

#include "engine/core/parallel.h"
#include "engine/ops/loss/z_loss_kernels.h"

namespace glia {
namespace {

template <class F> void dispatch(DType t, F&& f) {
  CHECK(t == DType::kFloat32 || t == DType::kFloat64, "z_loss: wants float32 or float64, got {}", t);
  if (t == DType::kFloat32) f(TypeTag<float>{});
  else f(TypeTag<double>{});
}

}  // namespace

// loss = Σ_t z_t² / real with z = logsumexp;  dl_te = dloss · 2 z_t softmax_te / real
Var z_loss(const Var& logits, const Sequences& q) {
  CHECK(logits.rank() == 2 && logits.size(0) == q.tokens && logits.size(1) >= 1,
        "z_loss: wants logits [{}, E], got {}", q.tokens, logits.shape());
  const int64_t tokens = q.tokens, n = logits.size(1);
  const Tensor x = logits.value(), of = q.sequence_of, real = q.offsets.rows(q.count, q.count + 1);
  Tensor loss = empty(x.context(), {1}, x.dtype());
  dispatch(x.dtype(), [&]<class T>(TypeTag<T>) {
    const int32_t *s = of.data<int32_t>(), *r = real.data<int32_t>();
    on_device(
        x.context(), "z_loss", [&] { cpu::z_loss(x.data<T>(), s, r, tokens, n, loss.data<T>()); },
        [&](auto& cuda) { cuda::z_loss(x.data<T>(), s, r, tokens, n, loss.data<T>(), cuda.stream); });
  });
  return record("z_loss", loss, {logits}, [x, of, real, tokens, n](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    dispatch(x.dtype(), [&]<class T>(TypeTag<T>) {
      const int32_t *s = of.data<int32_t>(), *r = real.data<int32_t>();
      on_device(
          x.context(), "z_loss/gradient",
          [&] { cpu::z_loss_backward(x.data<T>(), s, r, tokens, n, dy.data<T>(), dx.data<T>()); },
          [&](auto& cuda) {
            cuda::z_loss_backward(x.data<T>(), s, r, tokens, n, dy.data<T>(), dx.data<T>(), cuda.stream);
          });
    });
    in.add(0, dx);
  });
}

namespace cpu {

template <class T>
void z_loss(const T* logits, const int32_t* sequence_of, const int32_t* real, int64_t tokens, int64_t n, T* loss) {
  double sum = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    if (sequence_of[t] < 0) continue;
    const double z = row_logsumexp(logits + t * n, n);
    sum += z * z;
  }
  *loss = static_cast<T>(sum / *real);
}

template <class T>
void z_loss_backward(const T* logits, const int32_t* sequence_of, const int32_t* real, int64_t tokens, int64_t n,
                     const T* dloss, T* dlogits) {
  parallel_for(tokens, 1024, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (sequence_of[t] < 0) std::fill(dlogits + t * n, dlogits + (t + 1) * n, T(0));
      else
        z_loss_row_gradient(logits + t * n, n, static_cast<double>(*dloss), static_cast<double>(*real),
                            dlogits + t * n);
    }
  });
}

template void z_loss(const float*, const int32_t*, const int32_t*, int64_t, int64_t, float*);
template void z_loss(const double*, const int32_t*, const int32_t*, int64_t, int64_t, double*);
template void z_loss_backward(const float*, const int32_t*, const int32_t*, int64_t, int64_t, const float*, float*);
template void z_loss_backward(const double*, const int32_t*, const int32_t*, int64_t, int64_t, const double*,
                              double*);

}  // namespace cpu

}  // namespace glia

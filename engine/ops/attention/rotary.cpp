#include "engine/ops/attention/rotary.h"

#include <vector>

#include "engine/core/parallel.h"
#include "engine/ops/attention/rotary_kernels.h"
#include "engine/ops/checks.h"

namespace glia {
namespace {

void check(const char* op, const Var& qkv, const Sequences& q, int64_t heads, int64_t before) {
  CHECK(qkv.rank() == 2 && qkv.size(0) == q.tokens && heads > 0 && qkv.size(1) % (6 * heads) == 0 && before >= 0,
        "{}: wants qkv [{}, 3 · {} · D] with D even and no row before the first, got {} and {}", op, q.tokens,
        heads, qkv.shape(), before);
}

void run(const Tensor& x, const Tensor& y, const Sequences& q, int64_t heads, int64_t before, double sign) {
  const RotaryShape s{
      q.tokens, heads, x.size(1) / (6 * heads), q.sequence_of.data<int32_t>(), q.offsets.data<int32_t>(),
      before,   sign};
  dispatch_floating(x.dtype(), "rotate", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.data<T>();
    T* to = y.data<T>();
    on_device(
        x.context(), "rotate", [&] { cpu::rotate(s, from, to); },
        [&](auto& cuda) { cuda::rotate(s, from, to, cuda.stream); });
  });
}

}  // namespace

// The gradient turns back: a rotation's inverse is its transpose.
Var rotate(const Var& qkv, const Sequences& sequences, int64_t heads, int64_t before) {
  check("rotate", qkv, sequences, heads, before);
  const Tensor y = empty_like(qkv.value());
  run(qkv.value(), y, sequences, heads, before, 1);
  return record("rotate", y, {qkv}, [=, q = sequences](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    run(dy, dx, q, heads, before, -1);
    in.add(0, dx);
  });
}

namespace cpu {

template <class T> void rotate(const RotaryShape& s, const T* x, T* y) {
  parallel_for(s.rows * s.half, 256, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) rotate_pair(s, i / s.half, i % s.half, x, y);
  });
}

}  // namespace cpu
}  // namespace glia

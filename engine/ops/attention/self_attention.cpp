#include "engine/ops/attention/self_attention.h"

#include "engine/ops/attention/attention_kernels.h"
#include "engine/ops/products/grouped_products.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/rows/column_sum.h"

namespace glia {

Var self_attention_reference(const Var& x, const Var& w, const Var& b, const Sequences& sequences,
                             const AttentionOptions& options) {
  return attention(linear(x, w, b), sequences, options);
}

Var self_attention_first_reference(const Var& x, const Var& w, const Var& b, const Sequences& sequences,
                                   const AttentionOptions& options) {
  return first_rows(self_attention_reference(x, w, b, sequences, options), sequences);
}

namespace {

void check(const char* op, const Var& x, const Var& w, const Var& b) {
  CHECK(x.rank() == 2 && w.shape() == (Shape{3 * x.size(1), x.size(1)}) && b.shape() == Shape{w.size(0)},
        "{}: wants x [T, H], w [3H, H], b [3H], got {}, {}, {}", op, x.shape(), w.shape(), b.shape());
}

// A launch that only a GPU is asked for.
template <class Launch> void on_gpu(Context& context, const char* op, Launch&& launch) {
  on_device(
      context, op, [op] { CHECK(false, "{}: wants a GPU", op); }, launch);
}

// x wᵀ + b. With Hopper's products by our own kernel: cuBLASLt's is 2 µs faster there and comes with a memset node,
// which costs 6 in a graph.
Tensor project(const Tensor& x, const Tensor& w, const Tensor& b) {
  if (!x.context().cuda().hopper() || w.size(0) % 8 != 0 || w.size(1) % 8 != 0)
    return linear(x, w, cast(b, x.dtype())).value();
  const Tensor y = empty(x.context(), {x.size(0), w.size(0)}, x.dtype());
  on_gpu(x.context(), "linear", [&](auto& cuda) {
    cuda::grouped_products(cuda, 1).forward(x.raw(), w.raw(), {b.raw(), b.dtype() == DType::kBFloat16}, y.raw(),
                                            {nullptr, 1, static_cast<int>(x.size(0))}, static_cast<int>(w.size(0)),
                                            static_cast<int>(w.size(1)), cuda.stream);
  });
  return y;
}

// db = the sum of the sequences' column sums.
void add_bias_gradient(const Tensor& sums, Grads& in) {
  if (!in.wants(2)) return;
  const Tensor db = in.buffer(2, DType::kFloat32);
  column_sum(sums, db);
  in.add_cast(2, db);
}

bool has_fast_path(const Var& x, const AttentionArgs& args) {
  return x.context().device().is_cuda() && x.dtype() == DType::kBFloat16 && args.sequences > 0 &&
         cuda::attention_path<bfloat16>(args) != cuda::AttentionPath::kGeneral;
}

}  // namespace

// dqkv as in attention;  dx = dqkv w, dw = dqkvᵀ x, db = Σ_b (column sums of sequence b's dqkv).
Var self_attention(const Var& x, const Var& w, const Var& b, const Sequences& sequences,
                   const AttentionOptions& options) {
  check("self_attention", x, w, b);
  const AttentionArgs args = attention_args(x.size(0), x.size(1), sequences, options);
  if (has_fast_path(x, args)) {
    Context& context = x.context();
    const Tensor weight = w.value_as(DType::kBFloat16), qkv = project(x.value(), weight, b.value());
    const Tensor out = empty(context, x.shape(), DType::kBFloat16),
                 lse = empty(context, {x.size(0), options.heads}),
                 kept = empty(context, {x.size(0), options.heads, cuda::attention_kept_words(args)}, DType::kInt32);
    const auto kept_words = [kept] { return reinterpret_cast<uint32_t*>(kept.data<int32_t>()); };
    on_gpu(context, "attention", [&](auto& cuda) {
      cuda::attention_forward_tensor(args, qkv.data<bfloat16>(), out.data<bfloat16>(), lse.data<float>(),
                                     kept_words(), cuda.stream);
    });
    // `sequences` is captured for its tensors, which `args` points into.
    return record(
        "self_attention", out, {x, w, b},
        [args, rows = x.value(), weight, qkv, out, lse, kept_words, sequences](const Tensor& dout, Grads& in) {
          Context& context = dout.context();
          const Tensor dqkv = empty_like(qkv),
                       sums = empty(context, {args.sequences * cuda::attention_sum_rows(args), qkv.size(1)}),
                       workspace = empty(context, {cuda::attention_backward_workspace_bytes<bfloat16>(args) / 4});
          on_gpu(context, "attention/gradient", [&](auto& cuda) {
            cuda::attention_backward_tensor(args, qkv.data<bfloat16>(), out.data<bfloat16>(), lse.data<float>(),
                                            kept_words(), dout.data<bfloat16>(), dqkv.data<bfloat16>(),
                                            sums.data<float>(), workspace.data<float>(), cuda.stream);
          });
          if (in.wants(0)) {
            const Tensor dx = in.buffer(0);
            matmul_into(dqkv, weight, dx, false, false);
            in.add(0, dx);
          }
          if (in.wants(1)) {
            const Tensor dw = in.buffer(1);
            matmul_into(dqkv, rows, dw, true, false);
            in.add(1, dw);
          }
          add_bias_gradient(sums, in);
        });
  }
  return self_attention_reference(x, w, b, sequences, options);
}

// q of the first rows x₁, k and v of all:  dx = dkv w_kv, + dq w_q in the first rows;  dw = (dqᵀ x₁, dkvᵀ x).
Var self_attention_first(const Var& x, const Var& w, const Var& b, const Sequences& sequences,
                         const AttentionOptions& options) {
  check("self_attention_first", x, w, b);
  const AttentionArgs args = attention_args(x.size(0), x.size(1), sequences, options);
  if (has_fast_path(x, args)) {
    Context& context = x.context();
    const int64_t h = x.size(1);
    const Tensor rows = x.value(), weight = w.value_as(DType::kBFloat16), bias = b.value();
    const Tensor first = first_rows(rows, sequences).value();
    const Tensor q = linear(first, weight.rows(0, h), b.value_as(DType::kBFloat16).rows(0, h)).value();
    const Tensor kv = project(rows, weight.rows(h, 3 * h), bias.rows(h, 3 * h));
    const Tensor out = empty_like(q), lse = empty(context, {args.sequences, options.heads});
    on_gpu(context, "attention", [&](auto& cuda) {
      cuda::attention_first_forward(args, q.data<bfloat16>(), kv.data<bfloat16>(), out.data<bfloat16>(),
                                    lse.data<float>(), cuda.stream);
    });
    return record(
        "self_attention_first", out, {x, w, b}, [=, sequences = sequences](const Tensor& dout, Grads& in) {
          Context& context = dout.context();
          const Tensor dq = empty_like(q), dkv = empty_like(kv), sums = empty(context, {args.sequences, 3 * h});
          on_gpu(context, "attention/gradient", [&](auto& cuda) {
            cuda::attention_first_backward(args, q.data<bfloat16>(), kv.data<bfloat16>(), out.data<bfloat16>(),
                                           lse.data<float>(), dout.data<bfloat16>(), dq.data<bfloat16>(),
                                           dkv.data<bfloat16>(), sums.data<float>(), cuda.stream);
          });
          if (in.wants(0)) {
            const Tensor dx = in.buffer(0), of_q = empty_like(q);
            matmul_into(dkv, weight.rows(h, 3 * h), dx, false, false);
            matmul_into(dq, weight.rows(0, h), of_q, false, false);
            on_gpu(context, "attention/gradient", [&](auto& cuda) {
              cuda::add_to_rows(of_q.data<bfloat16>(), sequences.first_rows.data<int32_t>(), dx.data<bfloat16>(),
                                args.sequences, h, cuda.stream);
            });
            in.add(0, dx);
          }
          if (in.wants(1)) {
            const Tensor dw = in.buffer(1);
            matmul_into(dq, first, dw.rows(0, h), true, false);
            matmul_into(dkv, rows, dw.rows(h, 3 * h), true, false);
            in.add(1, dw);
          }
          add_bias_gradient(sums, in);
        });
  }
  return self_attention_first_reference(x, w, b, sequences, options);
}

}  // namespace glia

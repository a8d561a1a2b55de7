#include "engine/ops/attention/attention.h"

#include <cmath>

#include "engine/ops/attention/attention_kernels.h"
#include "engine/ops/checks.h"
#include "engine/ops/elementwise/dropout.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/products/matmul.h"

namespace glia {
AttentionArgs attention_args(int64_t rows, int64_t hidden, const Sequences& s, const AttentionOptions& o) {
  CHECK(rows == s.tokens && o.heads >= 1 && hidden % o.heads == 0,
        "attention: wants {} rows and a multiple of {} heads, got [{}, {}]", s.tokens, o.heads, rows, hidden);
  AttentionArgs args;
  args.rows = static_cast<int>(s.tokens);
  args.sequences = static_cast<int>(s.count);
  args.heads = static_cast<int>(o.heads);
  args.head_size = static_cast<int>(hidden / o.heads);
  args.max_length = static_cast<int>(s.max_length);
  args.causal = o.causal;
  args.dropout = o.dropout;
  args.key = row_key("attention", o.key, o.heads * kAttentionMaxLength);
  args.offsets = s.offsets.data<int32_t>();
  args.key_lengths = data_or_null<int32_t>(s.key_lengths);
  check_attention_args(args);
  return args;
}

namespace {

AttentionArgs make_args(const Var& qkv, const Sequences& s, const AttentionOptions& o) {
  CHECK(qkv.rank() == 2 && qkv.size(0) == s.tokens && o.heads >= 1 && qkv.size(1) % (3 * o.heads) == 0,
        "attention: wants qkv [{}, 3·heads·D] with {} heads, got {}", s.tokens, o.heads, qkv.shape());
  return attention_args(qkv.size(0), qkv.size(1) / 3, s, o);
}

}  // namespace

// The formulas of both directions stand in attention_kernels.h.
Var attention(const Var& qkv, const Sequences& sequences, const AttentionOptions& options) {
  const AttentionArgs args = make_args(qkv, sequences, options);
  Context& context = qkv.context();
  const Tensor x = qkv.value();
  Tensor out = empty(context, {x.size(0), x.size(1) / 3}, x.dtype());
  Tensor lse =
      empty(context, {x.size(0), options.heads}, x.dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32);
  dispatch_floating(x.dtype(), "attention", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    on_device(
        context, "attention", [&] { cpu::attention_forward(args, x.data<T>(), out.data<T>(), lse.data<A>()); },
        [&](auto& cuda) { cuda::attention_forward(args, x.data<T>(), out.data<T>(), lse.data<A>(), cuda.stream); });
  });
  // `sequences` is captured for its tensors, which `args` points into.
  return record("attention", out, {qkv}, [args, x, out, lse, sequences](const Tensor& dout, Grads& in) {
    Tensor dqkv = in.buffer(0);
    dispatch_floating(x.dtype(), "attention", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = Accumulator<T>;
      on_device(
          x.context(), "attention/gradient",
          [&] {
            cpu::attention_backward(args, x.data<T>(), out.data<T>(), lse.data<A>(), dout.data<T>(),
                                    dqkv.data<T>());
          },
          [&](auto& cuda) {
            const int64_t bytes = cuda::attention_backward_workspace_bytes<T>(args);
            const Tensor workspace = empty(x.context(), {(bytes + 7) / 8}, DType::kFloat64);
            cuda::attention_backward(args, x.data<T>(), out.data<T>(), lse.data<A>(), dout.data<T>(),
                                     dqkv.data<T>(), workspace.raw(), cuda.stream);
          });
    });
    in.add(0, dqkv);
  });
}

Tensor attention_from(const Tensor& qkv, int64_t first, const Sequences& sequence,
                      const AttentionOptions& options) {
  CHECK(options.causal && options.dropout == 0 && sequence.count == 1 && first >= 0 && first < qkv.size(0),
        "attention_from: wants one causal sequence without dropout and a row of its {}, got row {} of {} sequences",
        qkv.size(0), first, sequence.count);
  const AttentionArgs args = make_args(qkv, sequence, options);
  Context& context = qkv.context();
  const Tensor out = empty(context, {qkv.size(0), qkv.size(1) / 3}, qkv.dtype());
  const Tensor lse = empty(context, {qkv.size(0), options.heads}, accumulation_dtype(qkv.dtype()));
  dispatch_floating(qkv.dtype(), "attention", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    on_device(
        context, "attention_from",
        [&] { cpu::attention_forward(args, qkv.data<T>(), out.data<T>(), lse.data<A>(), static_cast<int>(first)); },
        // All rows: at the lengths that the kernel takes one launch costs more than its work.
        [&](auto& cuda) {
          cuda::attention_forward(args, qkv.data<T>(), out.data<T>(), lse.data<A>(), cuda.stream);
        });
  });
  return out.rows(first, qkv.size(0));
}

namespace {

// Columns begin … end − 1 of a matrix, by a product with a selection matrix: slow, obvious, differentiable.
Var columns(const Var& x, int64_t begin, int64_t end) {
  std::vector<double> select(static_cast<size_t>(x.size(1) * (end - begin)), 0.0);
  for (int64_t j = begin; j < end; ++j) select[j * (end - begin) + j - begin] = 1;
  return matmul(x, from_vector(x.context(), select, {x.size(1), end - begin}, x.dtype()));
}

Var place(const Var& x, int64_t begin, int64_t width) {  // the transpose of columns()
  std::vector<double> select(static_cast<size_t>(x.size(1) * width), 0.0);
  for (int64_t j = 0; j < x.size(1); ++j) select[j * width + begin + j] = 1;
  return matmul(x, from_vector(x.context(), select, {x.size(1), width}, x.dtype()));
}

}  // namespace

Var attention_reference(const Var& qkv, const Sequences& sequences, const AttentionOptions& options) {
  const AttentionArgs args = make_args(qkv, sequences, options);
  Context& context = qkv.context();
  const int64_t hidden = args.hidden(), d = args.head_size, tokens = args.rows;
  const std::vector<int32_t> offsets = sequences.offsets.to_vector<int32_t>();
  const std::vector<int32_t> limits =
      args.key_lengths ? sequences.key_lengths.to_vector<int32_t>() : std::vector<int32_t>();
  const auto read = [&](const uint32_t* number) {
    uint32_t value = 0;
    if (number) context.backend().copy(&value, number, sizeof value, CopyKind::kDeviceToHost);
    return value;
  };
  const uint32_t step = read(options.key.step), first_row = read(options.key.first_row);

  Var out = zeros(context, {tokens, hidden}, qkv.dtype());
  for (int64_t b = 0; b < args.sequences; ++b) {
    const int64_t first = offsets[b], n = offsets[b + 1] - first;
    if (n == 0) continue;
    const Var own = rows(qkv, first, first + n);
    for (int64_t a = 0; a < args.heads; ++a) {
      const Var q = columns(own, a * d, (a + 1) * d), k = columns(own, hidden + a * d, hidden + (a + 1) * d),
                v = columns(own, 2 * hidden + a * d, 2 * hidden + (a + 1) * d);
      std::vector<double> mask(static_cast<size_t>(n * n), 0.0), keep(mask.size(), 1.0);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j) {
          if ((options.causal && j > i) || (args.key_lengths && j >= limits[b])) mask[i * n + j] = -1e30;
          const uint64_t element =
              static_cast<uint64_t>((first_row + first + i) * args.heads + a) * kAttentionMaxLength + j;
          if (options.dropout > 0)
            keep[i * n + j] = random_bits(options.key.seed, options.key.purpose, step, element) >=
                                      bernoulli_threshold(options.dropout)
                                  ? 1 / (1 - options.dropout)
                                  : 0;
        }
      const auto constant = [&](const std::vector<double>& values) {
        return from_vector(context, values, {n, n}, qkv.dtype());
      };
      const Var scores =
          add(scale(matmul(q, k, false, true), 1 / std::sqrt(static_cast<double>(d))), constant(mask));
      const Var head = matmul(mul(softmax(scores), constant(keep)), v);  // [n, D]
      // Back to [T, H]: rows by a selection product, columns likewise.
      std::vector<double> select(static_cast<size_t>(tokens * n), 0.0);
      for (int64_t i = 0; i < n; ++i) select[(first + i) * n + i] = 1;
      out = add(out, matmul(from_vector(context, select, {tokens, n}, qkv.dtype()), place(head, a * d, hidden)));
    }
  }
  return out;
}

}  // namespace glia

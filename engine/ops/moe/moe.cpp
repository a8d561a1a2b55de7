#include "engine/ops/moe/moe.h"

#include <algorithm>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "engine/ops/moe/moe_kernels.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/rows/reduce.h"
#include "engine/ops/rows/rows.h"
#include "engine/ops/rows/topk.h"
#include "engine/ops/wide_types.h"

namespace glia {
namespace {

RouterShape router_shape(const Var& x, const Var& w, ContextMode mode, const Sequences& s) {
  return {x.size(0),
          x.size(1),
          w.size(0),
          static_cast<int>(mode),
          s.sequence_of.data<int32_t>(),
          s.offsets.data<int32_t>(),
          s.count};
}

void check_router(const Var& x, const Var& w, const Var& b, const Var& context, ContextMode mode,
                  const Sequences& s) {
  const DType a = accumulation_dtype(x.dtype());
  CHECK(x.rank() == 2 && w.rank() == 2 && w.size(1) == x.size(1) && b.shape() == Shape{w.size(0)} &&
            w.dtype() == a && b.dtype() == a,
        "router_logits: wants x [T, H], w {} [E, H], b [E], got {}, {} {}, {}", a, x.shape(), w.dtype(), w.shape(),
        b.shape());
  CHECK(x.size(0) == s.tokens, "router_logits: x has {} rows, the sequences {}", x.size(0), s.tokens);
  CHECK((mode == ContextMode::kNone) == !context.defined() &&
            (!context.defined() || (context.shape() == Shape{s.count, w.size(0)} && context.dtype() == a)),
        "router_logits: wants a context {} [{}, {}] exactly when the mode uses one", a, s.count, w.size(0));
}

}  // namespace

// r = w x + b; l = r | r + c | r σ(c).  dr = dl | dl | dl σ(c);  dc = Σ_{t in b} dl | dl r σ'(c);  dx = dr w, dw =
// drᵀ x.
Var router_logits(const Var& x, const Var& w, const Var& b, const Var& context, ContextMode mode,
                  const Sequences& sequences) {
  check_router(x, w, b, context, mode, sequences);
  const RouterShape shape = router_shape(x, w, mode, sequences);
  const Tensor rows = x.value(), weight = w.value(), bias = b.value(),
               c = context.defined() ? context.value() : Tensor();
  Tensor logits = empty(x.context(), {shape.tokens, shape.experts}, w.dtype());
  const Tensor raw = mode == ContextMode::kGate ? empty_like(logits) : Tensor();
  dispatch_floating(x.dtype(), "router_logits", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    on_device(
        x.context(), "router_logits",
        [&] {
          cpu::router_logits(shape, rows.data<T>(), weight.data<A>(), bias.data<A>(), data_or_null<A>(c),
                             logits.data<A>(), data_or_null<A>(raw));
        },
        [&](auto& cuda) {
          cuda::router_logits(shape, rows.data<T>(), weight.data<A>(), bias.data<A>(), data_or_null<A>(c),
                              logits.data<A>(), data_or_null<A>(raw), cuda.stream);
        });
  });
  // `sequences` is captured for its tensors, which `shape` points into.
  return record(
      "router_logits", logits, {x, w, b, context},
      [shape, rows, weight, c, raw, sequences](const Tensor& dy, Grads& in) {
        dispatch_floating(rows.dtype(), "router_logits", [&](auto tag) {
          using T = typename decltype(tag)::type;
          using A = Accumulator<T>;
          Tensor grads[4];
          for (size_t i = 0; i < 4; ++i)
            if (in.wants(i)) grads[i] = in.buffer(i);
          on_device(
              rows.context(), "router_logits/gradient",
              [&] {
                cpu::router_logits_gradient(shape, rows.data<T>(), weight.data<A>(), data_or_null<A>(c),
                                            data_or_null<A>(raw), dy.data<A>(), data_or_null<T>(grads[0]),
                                            data_or_null<A>(grads[1]), data_or_null<A>(grads[2]),
                                            data_or_null<A>(grads[3]));
              },
              [&](auto& cuda) {
                const int64_t chunks = cuda::router_chunks(shape.tokens, shape.hidden);
                const Tensor partial = empty(rows.context(), {chunks, shape.experts, shape.hidden + 1}, dy.dtype());
                cuda::router_logits_gradient(shape, rows.data<T>(), weight.data<A>(), data_or_null<A>(c),
                                             data_or_null<A>(raw), dy.data<A>(), data_or_null<T>(grads[0]),
                                             data_or_null<A>(grads[1]), data_or_null<A>(grads[2]),
                                             data_or_null<A>(grads[3]), partial.data<A>(), cuda.stream);
              });
          for (size_t i = 0; i < 4; ++i)
            if (grads[i].defined()) in.add(i, grads[i]);
        });
      });
}

Var router_logits_reference(const Var& x, const Var& w, const Var& b, const Var& context, ContextMode mode,
                            const Sequences& sequences) {
  check_router(x, w, b, context, mode, sequences);
  const Var raw = linear(cast(x, w.dtype()), w, b);
  Var logits = raw;
  if (mode == ContextMode::kAdd) logits = add(raw, sequence_broadcast(context, sequences));
  if (mode == ContextMode::kGate) logits = mul(raw, sequence_broadcast(sigmoid(context), sequences));
  // Zero in the tail: a broadcast of ones is 1 in the sequences' rows and 0 elsewhere.
  const Var ones = full(x.context(), {sequences.count, w.size(0)}, 1.0, w.dtype());
  return mul(logits, sequence_broadcast(ones, sequences));
}

// g = softmax of the chosen logits; dl_i = g_i (dg_i − Σ_j g_j dg_j) for the chosen i, 0 for the others.
Gates top_k_gates(const Var& logits, int64_t k, const Sequences& sequences) {
  CHECK(logits.rank() == 2 && k >= 1 && k <= logits.size(1) && logits.size(0) == sequences.tokens,
        "top_k_gates: wants logits [{}, E] and 1 <= k <= E, got {} and k = {}", sequences.tokens, logits.shape(),
        k);
  const int64_t tokens = logits.size(0), experts = logits.size(1);
  Tensor gates = empty(logits.context(), {tokens, k}, logits.dtype()),
         chosen = empty(logits.context(), {tokens, k}, DType::kInt32);
  dispatch_wide(logits.dtype(), "top_k_gates", [&](auto tag) {
    using A = typename decltype(tag)::type;
    const A* l = logits.value().data<A>();
    const int32_t* sequence_of = sequences.sequence_of.data<int32_t>();
    on_device(
        logits.context(), "top_k_gates",
        [&] { cpu::top_k_gates(l, sequence_of, tokens, experts, k, gates.data<A>(), chosen.data<int32_t>()); },
        [&](auto& cuda) {
          cuda::top_k_gates(l, sequence_of, tokens, experts, k, gates.data<A>(), chosen.data<int32_t>(),
                            cuda.stream);
        });
  });
  Var y = record("top_k_gates", gates, {logits}, [gates, chosen, experts](const Tensor& dy, Grads& in) {
    dispatch_wide(gates.dtype(), "top_k_gates", [&](auto tag) {
      using A = typename decltype(tag)::type;
      Tensor dl = in.buffer(0);
      const int64_t rows = gates.size(0), width = gates.size(1);
      on_device(
          gates.context(), "top_k_gates/gradient",
          [&] {
            cpu::top_k_gates_gradient(gates.data<A>(), chosen.data<int32_t>(), dy.data<A>(), rows, experts, width,
                                      dl.data<A>());
          },
          [&](auto& cuda) {
            cuda::top_k_gates_gradient(gates.data<A>(), chosen.data<int32_t>(), dy.data<A>(), rows, experts, width,
                                       dl.data<A>(), cuda.stream);
          });
      in.add(0, dl);
    });
  });
  return {y, chosen};
}

Gates top_k_gates_reference(const Var& logits, int64_t k, const Sequences& sequences) {
  const TopK top = top_k(logits, k);
  const Var ones = full(logits.context(), {sequences.count, k}, 1.0, logits.dtype());
  // The tail's choices are not −1 here: the reference is for tests, which look at the sequences' rows.
  return {mul(softmax(top.values), sequence_broadcast(ones, sequences)), top.indices};
}

namespace {

void check_load(const char* op, const Var& gates, const Tensor& experts) {
  CHECK(gates.rank() == 2 && experts.shape() == gates.shape() && experts.dtype() == DType::kInt32,
        "{}: wants gates [T, K] and experts int32 [T, K], got {} and {} {}", op, gates.shape(), experts.dtype(),
        experts.shape());
}

LoadShape load_shape(const Var& gates, int64_t n_experts, const Sequences& sequences) {
  return {gates.size(0), gates.size(1), n_experts, sequences.offsets.data<int32_t>() + sequences.count};
}

}  // namespace

Loads loads_of(const Var& gates, const Tensor& experts, int64_t n_experts, const Sequences& sequences) {
  check_load("load_losses", gates, experts);
  const LoadShape shape = load_shape(gates, n_experts, sequences);
  const Tensor losses = empty(gates.context(), {2}, gates.dtype()),
               importance = empty(gates.context(), {n_experts}, gates.dtype());
  dispatch_wide(gates.dtype(), "load_losses", [&](auto tag) {
    using A = typename decltype(tag)::type;
    const A* g = gates.value().data<A>();
    const int32_t* chosen = experts.data<int32_t>();
    on_device(
        gates.context(), "load_losses",
        [&] { cpu::load_losses(shape, g, chosen, losses.data<A>(), importance.data<A>()); },
        [&](auto& cuda) {
          const int64_t chunks = (shape.tokens + cuda::kLoadChunk - 1) / cuda::kLoadChunk;
          const Tensor partial = empty(gates.context(), {chunks, shape.experts}, gates.dtype());
          cuda::load_losses(shape, g, chosen, partial.data<A>(), losses.data<A>(), importance.data<A>(),
                            cuda.stream);
        });
  });
  // `sequences` is captured for its tensors, which `shape` points into.
  const std::vector<Var> outputs = record_joint(
      "load_losses", {losses, importance}, {gates},
      [shape, experts, importance, sequences](std::span<const Tensor> dy, Grads& in) {
        const Tensor dg = in.buffer(0);
        dispatch_wide(importance.dtype(), "load_losses", [&](auto tag) {
          using A = typename decltype(tag)::type;
          const int32_t* chosen = experts.data<int32_t>();
          const A *of = importance.data<A>(), *dlosses = data_or_null<A>(dy[0]),
                  *dimportance = data_or_null<A>(dy[1]);
          on_device(
              importance.context(), "load_losses/gradient",
              [&] { cpu::load_losses_gradient(shape, chosen, of, dlosses, dimportance, dg.data<A>()); },
              [&](auto& cuda) {
                cuda::load_losses_gradient(shape, chosen, of, dlosses, dimportance, dg.data<A>(), cuda.stream);
              });
        });
        in.add(0, dg);
      });
  return {outputs[0], outputs[1]};
}

Var load_losses(const Var& gates, const Tensor& experts, int64_t n_experts, const Sequences& sequences) {
  return loads_of(gates, experts, n_experts, sequences).losses;
}

namespace {

// → {balance, energy}.     importance [E], rows [] the number of real ones
Var losses_of_importance(const Var& importance, const Var& rows) {
  const int64_t n_experts = importance.size(0);
  const Tensor all_first = zeros(importance.context(), {n_experts}, DType::kInt32);
  const Var centre = mean(importance);                                 // []
  const Var spread = gather_rows(reshape(centre, {1, 1}), all_first);  // [E, 1]
  const Var centred = sub(importance, reshape(spread, {n_experts}));
  const double freedom = n_experts > 1 ? static_cast<double>(n_experts - 1) : 1.0;
  const Var balance = div(scale(sum(square(centred)), 1.0 / freedom), add_scalar(square(centre), 1e-8));
  const Var energy = div(sum(square(importance)), square(rows));
  const Tensor both = empty(importance.context(), {2}, importance.dtype());
  both.rows(0, 1).copy_from(balance.value().reshape({1}));
  both.rows(1, 2).copy_from(energy.value().reshape({1}));
  return record("losses_of_importance", both, {balance, energy}, [](const Tensor& dy, Grads& in) {
    for (int i = 0; i < 2; ++i) in.add(i, dy.rows(i, i + 1).reshape(Shape{}));
  });
}

}  // namespace

Var load_losses_reference(const Var& gates, const Tensor& experts, int64_t n_experts, const Sequences& sequences) {
  return losses_of_importance(sum(scatter_last(gates, experts, n_experts), 0), real_rows(sequences, gates.dtype()));
}

Dispatch make_dispatch(const Tensor& experts, int64_t n_experts, int64_t alignment, int64_t capacity) {
  CHECK(experts.rank() == 2 && experts.dtype() == DType::kInt32 && n_experts >= 1 && alignment >= 1,
        "make_dispatch: wants experts int32 [T, K], got {} {}", experts.dtype(), experts.shape());
  Context& context = experts.context();
  const int64_t pairs = experts.numel();
  CHECK(capacity >= 0 && capacity <= pairs, "make_dispatch: wants a capacity of at most {} pairs, got {}", pairs,
        capacity);
  const int64_t most = capacity > 0 ? capacity : pairs;
  Dispatch d;
  d.rows = (most + n_experts * (alignment - 1) + alignment - 1) / alignment * alignment;
  d.alignment = alignment;
  d.offsets = empty(context, {n_experts + 1}, DType::kInt32);
  d.row_of = empty(context, experts.shape(), DType::kInt32);
  d.pair_of = empty(context, {d.rows}, DType::kInt32);
  const int32_t* chosen = experts.data<int32_t>();
  on_device(
      context, "make_dispatch",
      [&] {
        cpu::make_dispatch(chosen, pairs, n_experts, alignment, d.rows, d.offsets.data<int32_t>(),
                           d.row_of.data<int32_t>(), d.pair_of.data<int32_t>());
      },
      [&](auto& cuda) {
        static_assert(kMostDispatched == cuda::kRoomForExperts);
        CHECK(n_experts <= kMostDispatched, "make_dispatch: wants at most {} experts on a GPU, got {}",
              kMostDispatched, n_experts);
        const int64_t chunks = (pairs + cuda::kDispatchChunk - 1) / cuda::kDispatchChunk;
        const Tensor counts = empty(context, {std::max<int64_t>(chunks, 1), n_experts}, DType::kInt32);
        cuda::make_dispatch(chosen, pairs, n_experts, alignment, d.rows, counts.data<int32_t>(),
                            d.offsets.data<int32_t>(), d.row_of.data<int32_t>(), d.pair_of.data<int32_t>(),
                            cuda.stream);
      });
  return d;
}

// z[r] = x[t(r)];  dx[t] = Σ_k dz[row_of[t, k]]: a gather in both directions.
Var dispatch_rows(const Var& x, const Dispatch& dispatch) {
  const int64_t k = dispatch.row_of.size(1), hidden = x.size(-1);
  CHECK(x.rank() == 2 && x.size(0) == dispatch.row_of.size(0), "dispatch_rows: wants x [{}, H], got {}",
        dispatch.row_of.size(0), x.shape());
  Tensor z = empty(x.context(), {dispatch.rows, hidden}, x.dtype());
  dispatch_floating(x.dtype(), "dispatch_rows", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = x.value().data<T>();
    const int32_t* pair_of = dispatch.pair_of.data<int32_t>();
    on_device(
        x.context(), "dispatch_rows",
        [&] { cpu::dispatch_rows(from, pair_of, dispatch.rows, hidden, k, z.data<T>()); },
        [&](auto& cuda) {
          cuda::dispatch_rows(from, pair_of, dispatch.rows, hidden, k, z.data<T>(), cuda.stream);
        });
  });
  return record("dispatch_rows", z, {x}, [dispatch](const Tensor& dz, Grads& in) {
    const Tensor dx = in.buffer(0);
    dispatch_gradient(dz, dispatch, dx);
    in.add(0, dx);
  });
}

void dispatch_gradient(const Tensor& dz, const Dispatch& dispatch, const Tensor& dx) {
  const int64_t tokens = dispatch.row_of.size(0), k = dispatch.row_of.size(1), hidden = dz.size(1);
  const int32_t* row_of = dispatch.row_of.data<int32_t>();
  dispatch_floating(dz.dtype(), "dispatch_rows", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Accumulator<T>* no_gates = nullptr;
    on_device(
        dz.context(), "dispatch_rows/gradient",
        [&] { cpu::combine_rows(dz.data<T>(), no_gates, row_of, tokens, hidden, k, dx.data<T>()); },
        [&](auto& cuda) {
          cuda::combine_rows(dz.data<T>(), no_gates, row_of, tokens, hidden, k, dx.data<T>(), cuda.stream);
        });
  });
}

// y[t] = Σ_k g_tk z[r];  dz[r] = g_tk dy[t], dg_tk = ⟨dy[t], z[r]⟩ with r = row_of[t, k].
Var combine_rows(const Var& z, const Var& gates, const Dispatch& dispatch) {
  const DType gate_type = accumulation_dtype(z.dtype());
  CHECK(z.rank() == 2 && z.size(0) == dispatch.rows && gates.shape() == dispatch.row_of.shape() &&
            gates.dtype() == gate_type,
        "combine_rows: wants z [{}, H] and gates {} {}, got {} and {} {}", dispatch.rows, gate_type,
        dispatch.row_of.shape(), z.shape(), gates.dtype(), gates.shape());
  const int64_t tokens = gates.size(0), k = gates.size(1), hidden = z.size(1);
  Tensor y = empty(z.context(), {tokens, hidden}, z.dtype());
  dispatch_floating(z.dtype(), "combine_rows", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    const T* from = z.value().data<T>();
    const A* g = gates.value().data<A>();
    const int32_t* row_of = dispatch.row_of.data<int32_t>();
    on_device(
        z.context(), "combine_rows", [&] { cpu::combine_rows(from, g, row_of, tokens, hidden, k, y.data<T>()); },
        [&](auto& cuda) { cuda::combine_rows(from, g, row_of, tokens, hidden, k, y.data<T>(), cuda.stream); });
  });
  return record("combine_rows", y, {z, gates},
                [x = z.value(), g = gates.value(), dispatch](const Tensor& dy, Grads& in) {
                  Tensor dz = in.wants(0) ? in.buffer(0) : Tensor(), dg = in.wants(1) ? in.buffer(1) : Tensor();
                  combine_gradient(x, g, dispatch, dy, dz, dg, {});
                  if (dz.defined()) in.add(0, dz);
                  if (dg.defined()) in.add(1, dg);
                });
}

void combine_gradient(const Tensor& z, const Tensor& gates, const Dispatch& dispatch, const Tensor& dy,
                      const Tensor& dz, const Tensor& dgates, const Tensor& group_sums) {
  const int64_t rows = z.size(0), hidden = z.size(1), k = gates.size(1), pairs = gates.numel();
  const int32_t *pair_of = dispatch.pair_of.data<int32_t>(), *row_of = dispatch.row_of.data<int32_t>();
  dispatch_floating(dy.dtype(), "combine_rows", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Accumulator<T>;
    on_device(
        dy.context(), "combine_rows/gradient",
        [&] {
          CHECK(!group_sums.defined(), "combine_gradient: group sums are CUDA's");
          cpu::combine_rows_gradient(z.data<T>(), gates.data<A>(), pair_of, row_of, dy.data<T>(), rows, pairs,
                                     hidden, k, data_or_null<T>(dz), data_or_null<A>(dgates));
        },
        [&](auto& cuda) {
          const Tensor partial =
              group_sums.defined()
                  ? empty(dy.context(), {(rows + cuda::kCombineTile - 1) / cuda::kCombineTile, hidden},
                          group_sums.dtype())
                  : Tensor();
          cuda::combine_rows_gradient(z.data<T>(), gates.data<A>(), pair_of, row_of, dy.data<T>(), rows, pairs,
                                      hidden, k, data_or_null<T>(dz), data_or_null<A>(dgates),
                                      data_or_null<A>(partial), cuda.stream);
          if (group_sums.defined())
            cuda::combine_group_sums(partial.data<A>(), dispatch.offsets.data<int32_t>(), group_sums.size(0),
                                     hidden, group_sums.data<A>(), cuda.stream);
        });
  });
}

}  // namespace glia

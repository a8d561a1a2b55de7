#include "engine/ops/moe/top_k_route.h"

#include "engine/ops/moe/top_k_route_kernels.h"

namespace glia {
namespace {

Var context_logits(const Var& x, const RouteContext& c, const Sequences& sequences, const Sequences& first) {
  if (c.mode == ContextMode::kNone) return {};
  if (c.logits.defined()) return c.logits;
  return router_logits(first_rows(x, sequences), c.weight, c.bias, {}, ContextMode::kNone, first);
}

}  // namespace

Routed route_reference(const Var& x, const Var& w, const Var& b, const RouteContext& context, int64_t k,
                       const Sequences& sequences, const Sequences& first) {
  Routed r;
  r.logits = router_logits(x, w, b, context_logits(x, context, sequences, first), context.mode, sequences);
  Gates g = top_k_gates(r.logits, k, sequences);
  r.gates = std::move(g.gates);
  r.experts = std::move(g.experts);
  Loads loads = loads_of(r.gates, r.experts, w.size(0), sequences);
  r.losses = std::move(loads.losses);
  r.importance = std::move(loads.importance);
  return r;
}

namespace {

bool is_fused(const Var& x, const Var& w) {
  if (x.dtype() != DType::kBFloat16 || w.dtype() != DType::kFloat32) return false;
  bool fits = false;
  on_device(
      x.context(), "route/fits", [] {},
      [&](auto&) {
        fits = cuda::route_fits(x.size(1), w.size(0)) && reinterpret_cast<uintptr_t>(x.value().raw()) % 16 == 0 &&
               reinterpret_cast<uintptr_t>(w.value().raw()) % 16 == 0;
      });
  return fits;
}

// The gradients' formulas stand at the kernels.
Routed fused(const Var& x, const Var& w, const Var& b, const RouteContext& context, int64_t k,
             const Sequences& sequences) {
  Context& device = x.context();
  const int64_t tokens = x.size(0), experts = w.size(0), count = sequences.count;
  const RouterShape s{tokens,
                      x.size(1),
                      experts,
                      static_cast<int>(context.mode),
                      sequences.sequence_of.data<int32_t>(),
                      sequences.offsets.data<int32_t>(),
                      count};
  const LoadShape load{tokens, k, experts, s.offsets + count};
  const bool gate = context.mode == ContextMode::kGate,
             own = context.weight.defined();  // `own`: its logits are made here
  const auto matrix = [&](int64_t rows, int64_t columns) {
    return empty(device, {rows, columns}, DType::kFloat32);
  };
  const Tensor rows = x.value(), weight = w.value(), context_weight = own ? context.weight.value() : Tensor();
  Tensor c = own ? matrix(count, experts) : context.logits.defined() ? context.logits.value() : Tensor();
  Tensor logits = matrix(tokens, experts), raw = gate ? matrix(tokens, experts) : Tensor(),
         gates = matrix(tokens, k);
  Tensor chosen = empty(device, {tokens, k}, DType::kInt32), losses = empty(device, {2}),
         importance = empty(device, {experts});
  const int64_t blocks = (tokens + cuda::kRouteRows - 1) / cuda::kRouteRows;
  Tensor partial = matrix(blocks, experts);
  if (own)
    on_device(
        device, "route/context", [] {},
        [&](auto& cuda) {
          cuda::route_context(s, rows.data<bfloat16>(), data_or_null<float>(context_weight),
                              context.bias.value().template data<float>(), c.data<float>(), cuda.stream);
        });
  on_device(
      device, "route", [] {},
      [&](auto& cuda) {
        cuda::route(s, k, rows.data<bfloat16>(), data_or_null<float>(weight), b.value().template data<float>(),
                    data_or_null<float>(c), logits.data<float>(), data_or_null<float>(raw), gates.data<float>(),
                    chosen.data<int32_t>(), partial.data<float>(), cuda.stream);
        cuda::sum_load_losses(load, partial.data<float>(), blocks, losses.data<float>(), importance.data<float>(),
                              cuda.stream);
      });

  // `sequences` is captured for its tensors, which `s` points into.
  const std::vector<Var> outputs = record_joint(
      "route", {logits, gates, losses, importance}, {x, w, b, own ? context.weight : context.logits, context.bias},
      [=, sequences = sequences](std::span<const Tensor> dy, Grads& in) {
        Context& device = rows.context();
        const auto grad = [&](size_t i, const Shape& shape) {
          return in.wants(i) ? in.buffer(i) : empty(device, shape, DType::kFloat32);
        };
        Tensor dx = in.wants(0) ? in.buffer(0) : Tensor(), dw = grad(1, weight.shape()), db = grad(2, {experts});
        Tensor dcontext = !c.defined() ? Tensor() : !own ? grad(3, c.shape()) : empty_like(c);
        const Tensor sums = empty_like(logits);
        const Tensor partial = empty(device, {cuda::router_chunks(tokens, s.hidden), experts, s.hidden + 1});
        bfloat16* to_dx = data_or_null<bfloat16>(dx);
        on_device(
            device, "route/gradient", [] {},
            [&](auto& cuda) {
              const cuda::RouteGradient g{data_or_null<float>(dy[0]), data_or_null<float>(dy[1]),
                                          data_or_null<float>(dy[2]), data_or_null<float>(dy[3]),
                                          data_or_null<float>(gates), data_or_null<float>(importance),
                                          chosen.data<int32_t>(),     k};
              cuda::route_gradient(s, g, rows.data<bfloat16>(), data_or_null<float>(weight), data_or_null<float>(c),
                                   data_or_null<float>(raw), sums.data<float>(), to_dx, dw.data<float>(),
                                   db.data<float>(), data_or_null<float>(dcontext), partial.data<float>(),
                                   cuda.stream);
            });
        in.add(1, dw);
        in.add(2, db);
        if (own) {
          Tensor dwa = grad(3, context_weight.shape()), dba = grad(4, {experts});
          on_device(
              device, "route/context_gradient", [] {},
              [&](auto& cuda) {
                cuda::route_context_gradient(s, rows.data<bfloat16>(), data_or_null<float>(context_weight),
                                             data_or_null<float>(dcontext), to_dx, dwa.data<float>(),
                                             dba.data<float>(), cuda.stream);
              });
          in.add(3, dwa);
          in.add(4, dba);
        } else if (dcontext.defined()) {
          in.add(3, dcontext);
        }
        if (dx.defined()) in.add(0, dx);
      });
  return {outputs[0], outputs[1], outputs[2], outputs[3], chosen};
}

}  // namespace

Routed route(const Var& x, const Var& w, const Var& b, const RouteContext& context, int64_t k,
             const Sequences& sequences, const Sequences& first) {
  CHECK(x.rank() == 2 && w.rank() == 2 && w.size(1) == x.size(1) && b.shape() == Shape{w.size(0)} &&
            x.size(0) == sequences.tokens,
        "route: wants x [{}, H], w [E, H], b [E], got {}, {}, {}", sequences.tokens, x.shape(), w.shape(),
        b.shape());
  CHECK(k >= 1 && k <= w.size(0), "route: wants 1 <= k <= {}, got {}", w.size(0), k);
  const bool any = context.weight.defined() || context.logits.defined();
  CHECK(any == (context.mode != ContextMode::kNone) && context.weight.defined() == context.bias.defined() &&
            !(context.weight.defined() && context.logits.defined()),
        "route: wants a context (weights and bias, or logits) exactly when the mode uses one");
  CHECK(!context.weight.defined() || (context.weight.shape() == w.shape() && context.bias.shape() == b.shape()),
        "route: wants context weights {} and bias {}, got {} and {}", w.shape(), b.shape(), context.weight.shape(),
        context.bias.shape());
  CHECK(!context.logits.defined() || context.logits.shape() == (Shape{sequences.count, w.size(0)}),
        "route: wants context logits [{}, {}], got {}", sequences.count, w.size(0), context.logits.shape());
  if (is_fused(x, w)) return fused(x, w, b, context, k, sequences);
  return route_reference(x, w, b, context, k, sequences, first);
}

}  // namespace glia

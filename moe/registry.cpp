#include "moe/router.h"

namespace glia {

MakeRouter make_softmax_router, make_astrocyte_router, make_astrocyte_hierarchical_router,
    make_astrocyte_meanpool_router;

namespace {
constexpr RouterRow kRouters[] = {
    {"softmax", make_softmax_router, "l = W x + b"},
    {"astrocyte", make_astrocyte_router, "l = (W x + b) * sigmoid(W_a x_cls + b_a)"},
    {"astrocyte-hierarchical", make_astrocyte_hierarchical_router, "l = (W x + b) + (W_a x_cls + b_a)"},
    {"astrocyte-meanpool", make_astrocyte_meanpool_router,
     "l = (W x + b) * sigmoid(W_a mean(x) + b_a), mean without CLS"},
};
}  // namespace

std::span<const RouterRow> router_registry() { return kRouters; }

std::unique_ptr<Router> make_router(std::string_view router, ParameterSet& set, const std::string& name,
                                    const RouterOptions& o) {
  if (o.top_k < 1 || o.top_k > o.n_experts)
    fail_input("router {}: expected 1 <= top_k <= experts, got top_k {} and {} experts", router, o.top_k,
               o.n_experts);
  std::string known;
  for (const RouterRow& row : kRouters) {
    known += (known.empty() ? "" : ", ") + std::string(row.name);
    if (router != row.name) continue;
    std::unique_ptr<Router> r = row.make(set, name, o);
    if (o.top_k == 1 && o.n_experts > 1 && r->renormalises())
      fail_input(
          "router {}: with top_k 1 its renormalised gate is always 1, so the router gets no gradient; use top_k "
          ">= 2 or a router that does not renormalise",
          router);
    return r;
  }
  fail_input("router: expected one of {}; got '{}'", known, router);
}

}  // namespace glia

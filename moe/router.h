// The contract of a router, and how to make one. To add a router: moe/routers/<name>.cpp and a row in
// moe/registry.cpp; the tests walk the registry.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "nn/feed_forward.h"

namespace glia {

struct RouterOptions {
  int64_t hidden = 512, n_experts = 8, top_k = 2;
  double balance = 0, energy = 0;  // α and β of docs/science.md 1
  double z_loss = 0;               // weight of the router z-loss; 0 leaves it out
  double init_std = 0.02;
  int layer = 0;  // keys the noise of routers that have some
};

class Router {
 public:
  virtual ~Router() = default;
  // x [T, H] → experts and gates [T, K], this layer's losses, and what is worth logging. A pure function of x, the
  // pass and the weights: nothing is stored, tail rows go nowhere, and only rows of pass.sequences enter the
  // losses.
  virtual Routing route(const Var& x, const Pass& pass) const = 0;
  // Whether each row's gates are scaled to sum to 1. With K = 1 such a router gets no gradient, so it is refused.
  virtual bool renormalises() const { return true; }
  // Tensors that are not trained but belong to the router (a load balance bias): checkpointed under these names.
  virtual std::vector<Statistic> state() const { return {}; }
};

using MakeRouter = std::unique_ptr<Router>(ParameterSet& set, const std::string& name,
                                           const RouterOptions& options);

struct RouterRow {
  const char* name;
  MakeRouter* make;
  const char* description;
};

std::span<const RouterRow> router_registry();
// Errors: an unknown name (the message lists the known ones), 1 <= K <= E violated, K = 1 with a router that
// renormalises.
std::unique_ptr<Router> make_router(std::string_view router, ParameterSet& set, const std::string& name,
                                    const RouterOptions& options);

}  // namespace glia

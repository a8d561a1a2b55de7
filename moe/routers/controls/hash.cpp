// A control (Roller et al. 2021): a token's experts follow from its id alone, by a hash; they are weighed alike. Nothing
// is learned, and what a sequence is about has no say.
#include "engine/ops/elementwise/elementwise.h"
#include "moe/routers/parts.h"

namespace glia {
namespace {

const OptionRow kSeed = {"hash-seed", int64_t{0}, "which hash; it does not depend on the run's seed", 0,
                         4294967295.0};

std::span<const OptionRow> options() {
  static const OptionRow rows[] = {kSeed};
  return rows;
}

RandomKey hash_key(const OptionValues& own) {
  return {static_cast<uint64_t>(own.get<int64_t>(kSeed)), purpose::kRouterNoise};
}

class HashRouter : public Router {
 public:
  explicit HashRouter(const RouterOptions& o) : options_(o) {}

  // Every id has a random number for each expert, and goes where they are largest: K different experts, the same in all
  // layers.
  Routing route(const RoutingInputs& in) const override {
    const Sequences& sequences = in.pass.sequences;
    const Tensor& ids = in.pass.ids;
    CHECK(ids.defined() && ids.numel() == sequences.tokens,
          "router hash: wants the pass's ids int32 [{}], got none", sequences.tokens);
    const DType dtype = in.x.dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    const int64_t n = options_.n_experts, k = options_.top_k;
    const Tensor drawn = random_rows_of(ids, n, dtype, RandomKind::kUniform, hash_key(options_.own));
    const Tensor scores = mul(drawn, constant_rows(sequences, n, 1, dtype)).value();
    Gates gates = choose(scores, {}, k, sequences);
    gates.gates = constant_rows(sequences, k, 1 / static_cast<double>(k), dtype);
    return routing_of(scores, std::move(gates), k);
  }

 private:
  RouterOptions options_;
};

OracleRouting oracle_of(const OracleInputs& in) {
  const auto E = static_cast<uint64_t>(in.n_experts), width = (E + 3) / 4 * 4;
  const RandomKey key = hash_key(in.options);
  std::vector<double> u;
  for (const int32_t id : in.ids)
    for (uint64_t e = 0; e < E; ++e)
      u.push_back(uniform_from(random_bits(key.seed, key.purpose, 0, static_cast<uint64_t>(id) * width + e)));
  return oracle::choose(in, u, u, std::vector<double>(u.size(), 1), true);
}

}  // namespace

RouterRow hash_row() {
  return {"hash",
          [](ParameterSet&, const std::string&, const RouterOptions& o) -> std::unique_ptr<Router> {
            return std::make_unique<HashRouter>(o);
          },
          "the K experts for which a hash of the token's id is largest, weighed by 1 / K",
          "a control; Roller et al. 2021, arXiv 2106.04426 (random hash)",
          {.experts_permutable = false, .untrained = true, .linear = false, .constant = true},
          options(),
          {},
          oracle_of};
}

}  // namespace glia

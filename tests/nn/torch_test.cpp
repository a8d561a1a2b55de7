// The same small models as tests/peer/torch_fixture.py: PyTorch computed tests/fixtures/torch_model.json, we
// compute it again.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/core/file.h"
#include "nn/optimizer.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

// The script's formula for weights and batches, over 32-bit integers.
uint32_t mixed(uint32_t x) {
  x *= 2654435761u;
  x ^= x >> 15;
  x *= 2246822519u;
  return x ^ (x >> 13);
}
uint32_t salt(std::string_view name) {
  uint32_t h = 2166136261u;
  for (const char c : name) h = (h ^ static_cast<uint8_t>(c)) * 16777619u;
  return h;
}
double uniform(std::string_view name, uint32_t i) { return mixed(salt(name) + i) / 2147483648.0 - 1.0; }
int32_t below(std::string_view name, uint32_t i, uint32_t n) {
  return static_cast<int32_t>(mixed(salt(name) + i) % n);
}

constexpr uint32_t kBatch = 4, kPositions = 12, kSteps = 10;

ModelConfig peer_config(const std::string& router, DType compute) {
  ModelConfig c = tiny_config(router, compute);
  c.bert.vocabulary = 30, c.bert.positions = kPositions;
  return c;
}

void set_weights(Model& model) {
  for (const Parameter& p : model.parameters().all()) {
    const double base = p.name.ends_with("norm.weight") ? 1 : 0, size = p.decay ? 0.5 : 0.125;
    std::vector<double> v(static_cast<size_t>(p.shape.numel()));
    for (size_t i = 0; i < v.size(); ++i) v[i] = base + size * uniform(p.name, static_cast<uint32_t>(i));
    Tensor(p.var.value()).copy_from(from_vector(model.context(), v, p.shape, p.var.dtype()));
  }
  model.parameters().refresh_copy();
}

Batch peer_batch(Context& context, uint32_t step) {
  std::vector<int32_t> lengths, ids, labels;
  for (uint32_t b = step * kBatch; b < (step + 1) * kBatch; ++b) {
    lengths.push_back(2 + below("length", b, 6));
    for (int32_t p = 0; p < lengths.back(); ++p)
      ids.push_back(below("ids", b * kPositions + static_cast<uint32_t>(p), 30));
    labels.push_back(below("label", b, 3));
  }
  const auto n = static_cast<int64_t>(ids.size());
  return {
      from_vector(context, ids, {n}), from_vector(context, labels, {kBatch}), make_sequences(context, lengths), {}};
}

// The largest error in units of the largest value: one tensor's entries share a scale.
double relative_error(const std::vector<double>& mine, const nlohmann::json& theirs) {
  const auto expected = theirs.get<std::vector<double>>();
  return largest_difference(mine, expected) / std::max(1e-3, largest(expected));
}

TEST_CASE("torch: logits, losses, gradients and ten AdamW steps of a dense and an AHR model agree with PyTorch") {
  const std::string path = "tests/fixtures/torch_model.json";
  if (!std::filesystem::exists(path)) SKIP(path + " is not here; tests run in the repository's root");
  const nlohmann::json fixture = nlohmann::json::parse(read_file(path));
  for (auto entry = fixture.begin(); entry != fixture.end(); ++entry) {
    const std::string router = entry.key();
    const nlohmann::json& peer = entry.value();
    if (!peer.is_object()) continue;  // who made it, with what
    for (const DType compute : {DType::kFloat64, DType::kFloat32}) {
      INFO(router, " ", name(compute));
      // The fixture has 12 digits; float32 rounds at 6e-8 and ten steps of Adam's division by √v magnify that.
      const bool wide = compute == DType::kFloat64;
      const double first = wide ? 1e-10 : 2e-5, later = wide ? 1e-9 : 2e-3;
      Context context(test_device());
      Model model(context, peer_config(router, compute), 1);
      set_weights(model);
      AdamWOptions o;
      o.learning_rate = 0.01, o.warmup_steps = 3, o.total_steps = 20, o.clip = 0.5;
      AdamW optimiser(model.parameters(), o);
      for (uint32_t step = 0; step < kSteps; ++step) {
        context.set_step(step);
        model.parameters().clear_gradients();
        const Model::Output out = model.forward(peer_batch(context, step), true);
        backward(out.loss);
        if (step == 0) {
          EXPECT(relative_error(values(out.logits.value()), peer.at("logits")) < first);
          EXPECT(relative_error(values(out.parts), peer.at("parts")) < first);
          EXPECT(peer.at("gradients").size() == model.parameters().all().size());
          for (const Parameter& p : model.parameters().all()) {
            INFO(p.name);
            EXPECT(relative_error(values(p.var.grad()), peer.at("gradients").at(p.name)) < first);
          }
        }
        optimiser.step();
        const double loss = out.loss.value().item(), norm = optimiser.report().gradient_norm;
        EXPECT(std::abs(loss - peer.at("losses")[step].get<double>()) < later);
        EXPECT(std::abs(norm - peer.at("gradient_norms")[step].get<double>()) < later * norm);
      }
      for (const Parameter& p : model.parameters().all()) {
        INFO(p.name);
        std::vector<double> mine = values(p.var.value());
        const auto theirs = peer.at("weights").at(p.name).get<std::vector<double>>();
        // A key's bias shifts all scores of a query alike, so its gradient is 0 but for rounding, which Adam scales
        // up.
        if (!wide && p.name.ends_with("qkv.bias"))
          std::copy(theirs.begin() + 8, theirs.begin() + 16, mine.begin() + 8);
        EXPECT(relative_error(mine, theirs) < later);
      }
    }
  }
}

}  // namespace
}  // namespace glia::test

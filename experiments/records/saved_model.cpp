#include "experiments/records/saved_model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "data/datasets/prompts.h"
#include "data/tokens/tokenizer_config.h"
#include "engine/core/check.h"
#include "experiments/tasks/task.h"
#include "moe/layer_walk.h"
#include "nn/weights/checkpoint.h"

namespace fs = std::filesystem;

namespace glia {
namespace {

using results::ContextKind;
using results::LayerTrace;
using results::Matrix;

int64_t positive(const results::Run& run, const results::Json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number_integer() || it->get<int64_t>() < 1)
    fail_input("{}/config.json: expected a whole number above 0 as model.{}, got {}", run.folder, key,
               it == object.end() ? "nothing" : it->dump());
  return it->get<int64_t>();
}

OptionValue read_option(const results::Run& run, const OptionRow& row, const results::Json& json) {
  try {
    return parse_option(row, json.is_boolean()  ? (json.get<bool>() ? "on" : "off")
                             : json.is_string() ? json.get<std::string>()
                                                : json.dump());
  } catch (const Error& error) {
    fail_input("{}/config.json: model.{}: {}", run.folder, option_key(row.name), error.what());
  }
}

auto options_of(const results::Run& run, const std::string& router) {
  try {
    return routing_options(router);
  } catch (const Error& error) {
    fail_input("{}/config.json: {}", run.folder, error.what());
  }
}

Matrix matrix_of(const Tensor& t) {
  Matrix m(int(t.size(0)), int(t.size(1)));
  m.values = t.to_vector<double>();
  return m;
}

std::vector<LayerTrace::Ground> grounds_of(const std::vector<Explanation::Ground>& list) {
  std::vector<LayerTrace::Ground> grounds;
  for (const auto& [name, label, first, values] : list) grounds.push_back({name, label, first, matrix_of(values)});
  return grounds;
}

// What the router says of its choices; nothing for one that has no such explanation.
void explain_layer(LayerTrace& trace, size_t layer, const std::string& router, const Explanation& e,
                   const Routing& routing) {
  trace.of_sequence = grounds_of(e.of_sequences), trace.of_tokens = grounds_of(e.of_tokens);
  if (!e.token_logits.defined()) return;
  trace.token_logits = matrix_of(e.token_logits);
  trace.logits = matrix_of(routing.scores.value());
  if (e.mode != ContextMode::kNone) trace.context = e.context.to_vector<double>();
  trace.kind = e.mode == ContextMode::kNone  ? ContextKind::none
               : e.mode == ContextMode::kAdd ? ContextKind::added
                                             : ContextKind::multiplied;
  if (e.compared.defined()) {
    trace.compared = matrix_of(e.compared), trace.compared_alone = matrix_of(e.compared_alone);
    trace.comparison = e.comparison;
  }
  std::vector<double> allowed(size_t(trace.logits.cols), 0.0);
  if (e.allowed.defined()) {  // of the one sequence that a text is
    allowed = e.allowed.to_vector<double>(), trace.allowed_name = e.allowed_name;
    for (size_t i = 0; i < allowed.size(); ++i)
      if (allowed[i] == 0) trace.allowed.push_back(int(i));
  }
  const Matrix& values = trace.compared.rows > 0 ? trace.compared : trace.logits;
  for (int s = 0; s < values.rows; ++s) {
    const auto& chosen = trace.experts[size_t(s)];
    for (const int one : chosen)
      for (int other = 0; other < values.cols; ++other) {
        const bool taken = std::ranges::find(chosen, other) != chosen.end();
        CHECK(
            allowed[size_t(one)] == 0 &&
                (taken || allowed[size_t(other)] != 0 || values(s, other) <= values(s, one)),
            "explain() of router {}: layer {}, token {}: expert {} is chosen, which is not allowed, or less than expert {}; a "
            "choice that reads more than what explain() says has no explanation: scores and state are told without one",
            router, layer + 1, s, one, other);
      }
  }
}

// What every router's choice comes from beside logits and context: scores, what it keeps of its experts, other columns.
void add_grounds(LayerTrace& trace, size_t layer, const Model& model, const Routing& routing) {
  if (routing.scores.defined() && routing.scores.size(1) == routing.n_experts)
    trace.scores = matrix_of(routing.scores.value());
  const std::string prefix = fmt::format("encoder.layer.{}.moe.router.", layer);
  for (const State& state : model.parameters().states())
    if (state.name.starts_with(prefix) && state.shape == Shape{routing.n_experts}) {
      std::string name = state.name.substr(prefix.size());
      std::ranges::replace(name, '_', ' ');
      trace.kept.emplace_back(name, state.value.to_vector<double>());
    }
  if (!routing.other_choices.defined()) return;
  const std::vector<std::string> names = columns_outside(model.config().moe);
  const Matrix chosen = matrix_of(routing.other_choices), gates = matrix_of(routing.other_gates);
  for (int s = 0; s < chosen.rows; ++s) {
    auto& token = trace.beside.emplace_back();
    for (int i = 0; i < chosen.cols; ++i)
      if (chosen(s, i) > 0) token.emplace_back(names[size_t(i)], gates(s, i));
  }
}

}  // namespace

ModelConfig saved_model_config(const results::Run& run, DType compute) {
  const results::RunConfig& c = run.config;
  ModelConfig m;
  m.bert.layers = positive(run, c.model, "layers");
  m.bert.hidden = positive(run, c.model, "hidden");
  m.bert.heads = positive(run, c.model, "heads");
  m.bert.ffn = positive(run, c.model, "ffn");
  m.bert.vocabulary = positive(run, c.model, "vocabulary");
  if (c.model.contains("positions")) m.bert.positions = positive(run, c.model, "positions");
  if (c.model.contains("types")) m.bert.types = positive(run, c.model, "types");
  const std::string from = run.folder + "/config.json";
  m.bert.layer_norm_eps = results::Fields{c.model, from}.get<double>("norm_eps", m.bert.layer_norm_eps);
  m.bert.classes = positive(run, c.model, "classes");
  m.bert.pre_norm = results::Fields{c.model, from}.get<std::string>("norm", "post") == "pre";
  m.bert.rotary = results::Fields{c.model, from}.get<std::string>("position_encoding", "learned") == "rotary";
  m.bert.causal = find_task(c.task()).causal();
  m.moe.router = c.router;
  if (c.moe()) {
    m.moe.n_experts = positive(run, c.model, "experts");
    m.moe.top_k = positive(run, c.model, "top_k");
    m.moe.balance = c.balance;
    m.moe.energy = c.energy;
    if (const auto it = c.options.find("second_residual"); it != c.options.end() && it->is_boolean())
      m.moe.second_residual = it->get<bool>();
    for (const OptionRow& row : options_of(run, c.router))
      if (const auto it = c.model.find(option_key(row.name)); it != c.model.end())
        m.moe.options.set(row.name, read_option(run, row, *it));
  }
  if (results::Fields{c.model, from}.get<std::string>("encoder", "bert") == "bag")
    m.bag = {positive(run, c.model, "ngrams"), positive(run, c.model, "ngram_buckets")};
  m.compute = compute;
  m.head = find_task(c.task()).make_head;
  return m;
}

DType saved_precision(const results::Run& run, Device device, const std::string& asked) {
  const bool low = asked.empty() ? device.is_cuda() && run.config.precision == "bfloat16" : asked == "bfloat16";
  return low ? DType::kBFloat16 : DType::kFloat32;
}

std::unique_ptr<Model> load_saved_model(Context& context, const results::Run& run, DType compute) {
  const std::string path = run.folder + "/model.safetensors";
  if (!fs::exists(path)) fail_input("{}: has no model.safetensors; is the run finished?", run.folder);
  auto model = std::make_unique<Model>(context, saved_model_config(run, compute), run.config.seed);
  load_checkpoint(path, model->parameters(), nullptr, model->router_state());
  model->parameters().refresh_copy();
  return model;
}

std::string saved_vocabulary(const results::Run& run) {
  const fs::path folder = fs::absolute(run.folder).lexically_normal();
  for (const fs::path& place : {folder, folder.parent_path(), folder.parent_path().parent_path()})
    if (fs::exists(place / "vocab.txt")) return (place / "vocab.txt").string();
  return "";
}

WordPiece saved_tokenizer(const results::Run& run, const std::string& vocabulary) {
  const std::string path = vocabulary.empty() ? saved_vocabulary(run) : vocabulary;
  if (path.empty())
    fail_input("{}: there is no vocab.txt here or in the result folder; name it with --vocab", run.folder);
  Vocabulary words = Vocabulary::from_file(path);
  const int64_t expected = positive(run, run.config.model, "vocabulary");
  if (words.size() != expected)
    fail_input("{}: expected the {} tokens of the model in {}, got {}", path, expected, run.folder, words.size());
  bool lowercase = letter_case("auto", words, path).lowercase;
  if (const auto it = run.config.data.options.find("lowercase");
      it != run.config.data.options.end() && it->is_boolean())
    lowercase = it->get<bool>();
  return WordPiece(std::move(words), lowercase);
}

results::LayerTrace layer_trace(const Routing& routing) {
  LayerTrace trace;
  trace.n_experts = int(routing.n_experts);
  const auto experts = routing.experts.to_vector<int32_t>();
  const auto gates = routing.gates.value().to_vector<double>();
  const size_t tokens = size_t(routing.experts.size(0)), k = size_t(routing.experts.size(1));
  trace.experts.resize(tokens), trace.gates.resize(tokens);
  for (size_t i = 0; i < experts.size(); ++i)
    if (experts[i] >= 0) {
      trace.experts[i / k].push_back(experts[i]);
      trace.gates[i / k].push_back(gates[i]);
    }
  return trace;
}

int64_t saved_max_length(const Model& model, const results::Run& run) {
  const int64_t positions = model.config().bert.positions;
  const auto it = run.config.train.find("max_length");
  return it != run.config.train.end() && it->is_number_integer() ? std::min(positions, it->get<int64_t>())
                                                                 : positions;
}

results::RoutingTrace trace_text(const Model& model, const results::Run& run, const WordPiece& tokenizer,
                                 const std::string& text) {
  Context& context = model.context();
  const NoGrad no_grad(context);

  results::RoutingTrace trace;
  trace.config = run.config.config;
  trace.text = text;
  trace.topics = run.config.data.class_names;
  std::vector<int32_t> ids;
  trace.truncated = tokenizer.encode_sequence(text, saved_max_length(model, run), ids);
  for (const int32_t id : ids) trace.tokens.push_back(tokenizer.vocabulary().token(id));
  const int64_t count = int64_t(ids.size());
  Batch batch{from_vector(context, ids, {count}), {}, make_sequences(context, {int32_t(count)}), {}};
  // Whoever reads prompts is given one as running text has it.
  const int32_t border = border_of(ids.data(), count, sentence_enders(tokenizer.vocabulary()));
  batch.borders = from_vector(context, std::vector<int32_t>{border}, {1});

  // A router's input is known nowhere else than on the way. Model::forward then has to agree with what comes out. Without
  // experts there is nothing on the way, and a bag of n-grams has no layers.
  if (!model.config().moe.dense())
    walk(model, batch, [&](const WalkedLayer& layer, const FeedForward::Result& r) {
      if (r.routing.n_experts == 0) return;
      trace.layers.push_back(layer_trace(r.routing));
      add_grounds(trace.layers.back(), layer.number, model, r.routing);
      if (const auto* mixture = dynamic_cast<const Mixture*>(layer.layer.feed_forward.get()))
        explain_layer(trace.layers.back(), layer.number, model.config().moe.router,
                      mixture->explain(layer.h, layer.pass), r.routing);
    });

  const Model::Output out = model.forward(batch, false);
  for (size_t l = 0; l < trace.layers.size(); ++l)
    CHECK(layer_trace(out.routings[l]).experts == trace.layers[l].experts,
          "trace: layer {} routes differently than the model", l + 1);
  if (!out.logits.defined()) {  // a head that names no topic
    trace.topics.clear();
    results::check_trace(trace);
    return trace;
  }
  const std::vector<double> logits = out.logits.value().to_vector<double>();
  CHECK(logits.size() == trace.topics.size(), "trace: the model has {} classes, config.json names {}",
        logits.size(), trace.topics.size());
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (double logit : logits) sum += std::exp(logit - largest);
  for (double logit : logits) trace.probabilities.push_back(std::exp(logit - largest) / sum);
  results::check_trace(trace);
  return trace;
}

}  // namespace glia

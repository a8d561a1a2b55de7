#include "experiments/records/export.h"

#include <filesystem>

#include "engine/core/file.h"
#include "experiments/records/saved_model.h"
#include "nn/weights/hugging_face.h"
#include "nn/weights/pretrained.h"

namespace fs = std::filesystem;

namespace glia {
namespace {

using results::Json;

// What of the run says what the model is; where and by which command it was made stays at home.
Json ours(const results::RunConfig& run) {
  Json json = results::to_json(run);
  for (const char* key : {"device", "command"}) json.erase(key);
  return json;
}

// transformers must not take a mixture for a BERT and fill the experts' places with random numbers.
void mark_as_mixture(Json& config) {
  std::string architecture = config["architectures"][0];
  config["architectures"] = Json::array({architecture.replace(0, 4, "GliaMoe")});
  config["model_type"] = "glia-moe";
}

// Nor one whose norms stand in front for one whose norms stand behind.
void mark_as_pre_norm(Json& config) {
  std::string architecture = config["architectures"][0];
  config["architectures"] = Json::array({architecture.replace(0, 4, "GliaPreNorm")});
  config["model_type"] = "glia-pre-norm";
}

// Nor a decoder of ours for an encoder of theirs.
void mark_as_language_model(Json& config) {
  config["architectures"] = Json::array({"GliaCausalLM"});
  config["model_type"] = "glia-lm";
}

Json tokenizer_config(const WordPiece& tokenizer, int64_t max_length) {
  const Vocabulary& v = tokenizer.vocabulary();
  // Bytes and a layout's words nobody else cuts so: a name that transformers does not know is an error there.
  const char* name = tokenizer.of_bytes() ? "GliaByteTokenizer"
                     : v.has_words()      ? "GliaWordTokenizer"
                                          : "BertTokenizer";
  Json json = {{"tokenizer_class", name},        {"do_lower_case", tokenizer.lowercase()},
               {"model_max_length", max_length}, {"unk_token", v.token(v.unk())},
               {"cls_token", v.token(v.cls())},  {"sep_token", v.token(v.sep())}};
  if (v.pad() >= 0) json["pad_token"] = v.token(v.pad());
  if (v.mask() >= 0) json["mask_token"] = v.token(v.mask());
  return json;
}

std::string own_page(const results::RunConfig& run, const Model& model, const std::string& result) {
  const BertConfig& b = model.config().bert;
  const MoeConfig& m = model.config().moe;
  const std::string experts =
      m.dense() ? ""
                : fmt::format(" with {} experts in each layer, of which the router `{}` gives {} to a token",
                              m.n_experts, m.router, m.top_k);
  std::string page = fmt::format(
      "# {0}\n\nA {1} {2} layers (hidden size {3}, {4} heads{8}){5}.\nTrained by Glia as `{0}` with seed {6}; {7}.\n\n"
      "`model.safetensors` has Glia's names, since transformers has no such model. In each layer N:\n\n"
      "| tensor | shape |\n|---|---|\n",
      run.config, b.causal ? "language model that reads from left to right, of" : "BERT-like encoder of", b.layers,
      b.hidden, b.heads, experts, run.seed, result, b.pre_norm ? ", norms in front of attention and FFN" : "");
  for (const Parameter& p : model.parameters().all())
    if (p.name.starts_with("encoder.layer.0."))
      page += fmt::format("| encoder.layer.N.{} | {} |\n", p.name.substr(16), p.shape);
  return page + "\n`attention.qkv` holds the rows of query, key and value, in this order" +
         (m.dense() ? "" : "; experts lie along the first axis") + ". " +
         (b.causal ? "To hear it: `./tools/generate FOLDER \"a prompt\"`.\n"
                   : "To go on from it: `./experiments/train --init FOLDER --config NAME`.\n");
}

void write_own(const std::string& path, const Model& model) {
  std::vector<NamedTensor> all;
  for (const Parameter& p : model.parameters().all()) all.push_back({p.name, p.var.value()});
  for (const Statistic& s : model.router_state()) all.push_back({"state." + s.name, s.value});
  write_safetensors(path, all, {{"format", "pt"}});
}

}  // namespace

void export_run(const results::Run& run, const std::string& dir, const std::string& vocabulary) {
  if (fs::exists(dir) && (!fs::is_directory(dir) || !fs::is_empty(dir)))
    fail_input("{}: expected an empty or a new folder, and something is there", dir);
  Context context(Device::cpu());
  const auto model = load_saved_model(context, run, DType::kFloat32);
  const WordPiece tokenizer = saved_tokenizer(run, vocabulary);
  const std::string accuracy = run.evaluation ? fmt::format("{:.4f}", run.evaluation->accuracy()) : "unknown";
  export_model(run.config, *model, tokenizer, saved_max_length(*model, run), "test accuracy " + accuracy, dir);
}

void export_model(const results::RunConfig& run, const Model& model, const WordPiece& tokenizer, int64_t max_length,
                  const std::string& result, const std::string& dir) {
  if (model.config().bag.used())
    fail_input("{}: is a bag of n-grams, and no other library has such a model; expected a BERT or a mixture",
               run.config);
  const bool own = !model.config().moe.dense() || model.config().bert.causal || model.config().bert.pre_norm;
  const bool classifies = model.parameters().find("classifier.weight") != nullptr;
  // One that tells words too is read as what it was made for: to go on from.
  const bool words = model.parameters().find("mlm.bias") != nullptr;
  Json config = hugging_face_config(model.config().bert,
                                    classifies && !words ? "BertForSequenceClassification" : "BertForMaskedLM",
                                    classifies ? run.data.class_names : std::vector<std::string>{});
  if (model.config().bert.causal) mark_as_language_model(config);
  else if (!model.config().moe.dense()) mark_as_mixture(config);
  else if (model.config().bert.pre_norm) mark_as_pre_norm(config);
  config["glia"] = ours(run);
  make_folder(dir);
  const auto path = [&](const char* name) { return (fs::path(dir) / name).string(); };
  if (own) write_own(path("model.safetensors"), model);
  else export_hugging_face(path("model.safetensors"), model.parameters(), {});
  tokenizer.vocabulary().save(path("vocab.txt"));
  const Json tokens = tokenizer_config(tokenizer, std::min(model.config().bert.positions, max_length));
  write_file_atomic(path("tokenizer_config.json"), tokens.dump(2) + "\n");
  if (own) write_file_atomic(path("README.md"), own_page(run, model, result));
  // The last: a folder with a config.json is whole.
  write_file_atomic(path("config.json"), config.dump(2) + "\n");
}

}  // namespace glia

#include "experiments/training/pretrained.h"

#include <algorithm>

#include "engine/core/check.h"
#include "experiments/studies/study.h"
#include "experiments/tasks/task.h"
#include "nn/weights/hugging_face.h"
#include "nn/weights/pretrained.h"

namespace glia {
namespace {

uint64_t vocabulary_hash(const std::string& vocab) {
  return (vocab == "bytes" ? Vocabulary::of_bytes() : Vocabulary::from_file(vocab)).hash();
}

void take_vocabulary(Options& o, const std::set<std::string>& given, const Pretrained& p) {
  if (p.vocabulary.empty()) return;
  if (given.contains("vocab") && o.vocab != p.vocabulary &&
      vocabulary_hash(o.vocab) != vocabulary_hash(p.vocabulary))
    fail_input("--vocab {}: has other tokens than {}, by which the weights were trained; leave the flag out",
               o.vocab, p.vocabulary);
  if (!given.contains("vocab")) o.vocab = p.vocabulary;
}

// A length that nobody typed gives way to the weights.
void take_positions(Options& o, const std::set<std::string>& given, int64_t positions) {
  o.positions = positions;
  if (!given.contains("max-length")) o.max_length = std::min(o.max_length, positions);
}

}  // namespace

void refuse_init_layers(int64_t layers) {
  fail_input("--init-layers {}: expected weights to take them from (--init), got none", layers);
}

void shape_by_weights(Options& o, const std::set<std::string>& given) {
  if (o.init.empty() || !start_run(o.init).empty()) return;  // a run of this study has the study's own shape
  const Pretrained p = find_pretrained(o.init);
  if (p.config.empty()) {
    const Weights weights(p.weights);
    if (weights.extents().positions > 0) take_positions(o, given, weights.extents().positions);
    if (weights.extents().types > 0) o.types = weights.extents().types;
    if (o.init_layers > 0 && !given.contains("layers")) o.layers = o.init_layers;
    take_vocabulary(o, given, p);
    return;
  }
  const auto take = [&](const char* flag, int64_t Options::*member, int64_t value) {
    if (given.contains(flag) && o.*member != value)
      fail_input("--{} {}: contradicts {}, which says {}; leave the flag out", flag, o.*member, p.config, value);
    o.*member = value;
  };
  const BertConfig& s = p.shape;
  if (o.init_layers > s.layers)
    fail_input("--init-layers {}: {} says that there are {}", o.init_layers, p.config, s.layers);
  if (o.init_layers == 0 && given.contains("layers") && o.layers < s.layers)
    fail_input("--layers {}: contradicts {}, which says {}; --init-layers {} leaves the upper ones out", o.layers,
               p.config, s.layers, o.layers);
  take("layers", &Options::layers, o.init_layers > 0 ? o.init_layers : s.layers);
  take("hidden", &Options::hidden, s.hidden);
  take("heads", &Options::heads, s.heads);
  take("ffn", &Options::ffn, s.ffn);
  if (p.experts > 0) {
    take("experts", &Options::experts, p.experts);
    if (!given.contains("top-k")) o.top_k = p.top_k;
  }
  const auto take_word = [&](const char* flag, std::string Options::*member, const char* what,
                             const std::string& value) {
    if (given.contains(flag) && o.*member != value)
      fail_input("--{} {}: contradicts {}, whose {} {}; leave the flag out", flag, o.*member, p.config, what,
                 value);
    o.*member = value;
  };
  take_word("position-encoding", &Options::position_encoding, "positions are", s.rotary ? "rotary" : "learned");
  take_word("norm", &Options::norm, "layers have their norms", s.pre_norm ? "pre" : "post");
  if (p.language_model && !find_task(o.task).causal())
    fail_input("--task {}: contradicts {}, a model that reads from left to right: expected causal_lm", o.task,
               p.config);
  take_positions(o, given, s.positions);
  o.types = s.types;
  o.norm_eps = s.layer_norm_eps;
  take_vocabulary(o, given, p);
}

CheckedWeights check_weights(const Options& o) {
  const Pretrained p = find_pretrained(o.init);
  const Weights weights(p.weights);
  weights.check_finite();
  if (weights.layers() < o.layers || (weights.layers() > o.layers && o.init_layers == 0))
    fail_input(
        "{}: has {} encoder layers, and the model {}{}", weights.path(), weights.layers(), o.layers,
        weights.layers() > o.layers ? fmt::format("; --init-layers {} leaves the upper ones out", o.layers) : "");
  require_encoder(weights, o.layers);  // else each run would say so when it has begun
  const Weights::Extents& e = weights.extents();
  for (const auto& [flag, in_file, wanted] : {std::tuple{"hidden", e.hidden, o.hidden}, {"ffn", e.ffn, o.ffn}})
    if (in_file > 0 && wanted != in_file)
      fail_input("{}: its tensors say --{} {}, and the model has {}", weights.path(), flag, in_file, wanted);
  for (const auto& [key, in_file, said] :
       {std::tuple{"vocab_size", e.words, p.shape.vocabulary}, {"type_vocab_size", e.types, o.types}})
    if (!p.config.empty() && in_file > 0 && in_file != said)
      fail_input("{}: its table has {} rows, and {} says {} {}", weights.path(), in_file, p.config, key, said);
  if (e.positions > 0 && o.positions > e.positions)  // of more rows the first are taken
    fail_input("{}: its table has {} rows, and {} says max_position_embeddings {}", weights.path(), e.positions,
               p.config, o.positions);
  const TaskRow& task = find_task(o.task);
  const bool masks = task.targets == TaskRow::Targets::kMaskedWords;
  if (masks) weights.require_shared_table();
  std::string text = fmt::format("{}: {} tensors, ", p.weights, weights.tensors().size());
  text +=
      weights.ours() ? "our names" : fmt::format("Hugging Face's names, the encoder under '{}'", weights.prefix());
  if (weights.layers() > o.layers) text += fmt::format("; the lower {} of {} layers", o.layers, weights.layers());
  const auto lacks = [&](const std::string& name) { return !weights.ours() && !weights.find(name); };
  if (masks && lacks(weights.head_prefix() + "cls.predictions.transform.dense.weight"))
    text += "; no masked-LM head: a fresh one";
  if (task.targets == TaskRow::Targets::kLabels && lacks(weights.prefix() + "pooler.dense.weight"))
    text += "; no pooler: a fresh one";
  if (p.config.empty()) text += "; no config.json beside them: the flags say how many heads";
  return {text, e.words, weights.hash()};
}

std::string describe_weights(const CheckedWeights& weights, const Vocabulary& words) {
  const int64_t vocabulary = words.size();
  if (words.trained_here())
    fail_input(
        "{}; but no vocabulary was found beside them or the data, and one that is learnt from these texts has other "
        "ids: expected --vocab, the one that they were trained with",
        weights.text);
  if (weights.words < vocabulary)
    fail_input("{}; but their word table has {} rows, and the vocabulary {} tokens", weights.text, weights.words,
               vocabulary);
  if (weights.words == vocabulary) return weights.text;
  return fmt::format("{}; of {} rows of words the vocabulary's {}", weights.text, weights.words, vocabulary);
}

WarmStartReport start_from_weights(Model& model, const Options& o, uint64_t seed, bool random_ffn,
                                   const std::vector<std::string>& class_names) {
  const Pretrained p = find_pretrained(o.init);
  WarmStartOptions w;
  w.seed = seed;
  w.noise = o.init_noise;
  w.copy_ffn = !random_ffn;
  w.drop_layers = o.init_layers > 0;
  w.copy_routers = p.ours && !model.config().moe.dense() && p.router == model.config().moe.router;
  w.copy_head = p.ours && p.class_names == class_names;
  return warm_start(model, Weights(p.weights), w);
}

std::string report_text(const Options& o, const WarmStartReport& report) {
  std::string text = fmt::format("--init {}: {} parameters copied, {} fresh; {} tensors of the file unused\n",
                                 o.init, report.copied.size(), report.fresh.size(), report.unused.size());
  for (const auto& [what, names] :
       {std::pair{"copied", &report.copied}, {"fresh", &report.fresh}, {"unused", &report.unused}})
    for (const std::string& name : *names) text += fmt::format("{:<7} {}\n", what, name);
  return text;
}

}  // namespace glia

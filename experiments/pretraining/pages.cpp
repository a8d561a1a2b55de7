#include "experiments/pretraining/pages.h"

#include <algorithm>

#include "engine/core/build_info.h"
#include "engine/core/file.h"
#include "experiments/pretraining/text_feed.h"

namespace glia {

using results::Json;

namespace {

Json sizes_of(const TokenSplit& split) { return {{"documents", split.size()}, {"tokens", split.tokens()}}; }

template <class T> std::string_view bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// Both parts' ids one behind the other, training first.
std::string ids_of(const Corpus& corpus, bool narrow) {
  std::string bytes;
  for (const TokenSplit* part : {&corpus.training, &corpus.held_out}) {
    if (!narrow) {
      bytes += bytes_of(part->ids);
      continue;
    }
    const std::vector<uint16_t> ids(part->ids.begin(), part->ids.end());
    bytes += bytes_of(ids);
  }
  return bytes;
}

constexpr int64_t kDumpedSteps = 20;  // so many first batches of training: enough to compare a step's arithmetic

// At most so many batches of the text as a trainer or HeldOut reads them; returns how many.
int64_t dump_batches(const TokenSplit& text, const PieceOptions& pieces, int64_t most, const std::string& path) {
  PieceStream stream(text, pieces);
  const auto places = static_cast<size_t>(pieces.places), room = static_cast<size_t>(pieces.sequences),
             masked = static_cast<size_t>(masked_room(pieces.masking, pieces.places));
  std::vector<int32_t> ids(places), offsets(room + 1), lengths(room), labels(room), borders(room), read(masked),
      targets(masked), all;
  int64_t batches = 0;
  for (; batches < most; ++batches) {
    BatchView view;
    view.ids = ids.data(), view.offsets = offsets.data(), view.lengths = lengths.data(),
    view.labels = labels.data();
    view.read = read.data(), view.targets = targets.data();
    if (pieces.prompts) view.borders = borders.data();  // no prompt is told
    view.token_capacity = pieces.places, view.sequence_capacity = pieces.sequences;
    if (!stream.fill(view)) break;
    all.push_back(static_cast<int32_t>(view.tokens));
    all.push_back(static_cast<int32_t>(view.sequences));
    all.push_back(static_cast<int32_t>(view.read_rows));
    all.insert(all.end(), ids.begin(), ids.begin() + view.tokens);
    all.insert(all.end(), offsets.begin(), offsets.end());
    all.insert(all.end(), read.begin(), read.begin() + view.read_rows);
    all.insert(all.end(), targets.begin(), targets.begin() + view.read_rows);
  }
  write_file_atomic(path, bytes_of(all));
  return batches;
}

// Of the page: what was learnt beside the words.
std::string topics_page(const PretrainOptions& o, const Corpus& corpus) {
  if (o.joint == 0) return "";
  return fmt::format(
      "\nIts pooler and classifier learnt the topics of {}'s training texts with it, the words weighing {} times as much; "
      "transformers reads them as `BertForSequenceClassification`.\n",
      corpus.excluded, o.joint);
}

}  // namespace

Json text_record(const PretrainOptions& o, const Corpus& corpus) {
  Json sources = Json::array();
  for (const Corpus::Source& s : corpus.sources)
    sources.push_back({{"name", s.name},
                       {"documents", s.documents},
                       {"overlapping", s.overlapping},
                       {"validation_rows", s.validation},
                       {"held_out", s.held_out},
                       {"guards", s.guards}});
  return {{"sources", sources},
          {"test_rows_of", corpus.excluded},
          {"test_rows", corpus.test_rows},
          {"overlap_words", o.overlap_words},
          {"training", sizes_of(corpus.training)},
          {"held_out", sizes_of(corpus.held_out)},
          {"vocabulary", corpus.vocabulary().size()}};
}

void print_text(const Corpus& corpus, double seconds, std::FILE* out) {
  for (const Corpus::Source& s : corpus.sources)
    fmt::print(
        out,
        "text       {}: {} documents; left out: {} that share words with a test row, {} validation rows, {} beside "
        "held-out ones\n",
        s.name, s.documents, s.overlapping, s.validation, s.guards);
  if (corpus.test_rows > 0)
    fmt::print(out, "           compared with {} test rows of {}\n", corpus.test_rows, corpus.excluded);
  fmt::print(out,
             "           {} documents, {} pieces to train on; {} and {} held out; {} pieces in the vocabulary\n",
             corpus.training.size(), corpus.training.tokens(), corpus.held_out.size(), corpus.held_out.tokens(),
             corpus.vocabulary().size());
  for (const std::string& note : corpus.notes) fmt::print(out, "           {}\n", note);
  fmt::print(out, "           {} in {:.1f} s\n", corpus.from_cache ? "from the cache" : "made", seconds);
  std::fflush(out);
}

uint64_t text_fingerprint(const Corpus& corpus) {
  uint64_t hash = 0;
  for (const TokenSplit* part : {&corpus.training, &corpus.held_out})
    hash = hash_bytes(bytes_of(part->ids),
                      hash_bytes(bytes_of(part->offsets), hash_bytes(bytes_of(part->labels), hash)));
  return hash;
}

results::RunConfig saved_config(const PretrainOptions& o, const Corpus& corpus, const RunModel& model) {
  results::RunConfig c;
  c.config = model.name;
  c.seed = static_cast<uint64_t>(o.seed);
  c.protocol = o.protocol, c.preset = o.size, c.precision = o.precision;
  c.router = model.moe.router;
  c.balance = model.moe.balance, c.energy = model.moe.energy;
  const bool dense = model.moe.dense();
  c.model = to_json(o, Flag::Part::kModel);
  if (o.norm == "post") c.model.erase("norm");  // weights from before there was a choice have none
  if (o.position_encoding == "learned") c.model.erase("position_encoding");  // likewise
  c.model["experts"] = dense ? 0 : model.moe.n_experts;
  c.model["top_k"] = dense ? 0 : model.moe.top_k;
  for (const auto& [name, value] : model.moe.options.all())
    std::visit([&, key = option_key(name)](const auto& v) { c.model[key] = v; }, value);
  c.model["classes"] = corpus.classes();
  c.data.class_names = corpus.class_names;
  c.model["vocabulary"] = corpus.vocabulary().size();
  c.model["positions"] = o.positions, c.model["types"] = o.types, c.model["norm_eps"] = o.norm_eps;
  c.train = {{"task", o.task}, {"mask_rate", o.mask_rate}, {"max_length", o.max_length}};
  if (o.joint > 0) c.train["joint"] = o.joint;
  c.data.name = "text", c.data.synthetic = false;
  c.data.train_rows = corpus.training.size(), c.data.validation_rows = corpus.held_out.size();
  c.data.options["lowercase"] = corpus.tokenizer->lowercase();
  if (o.prompt != "none") c.data.options["prompt"] = o.prompt;
  c.commit = build_commit();
  return c;
}

void write_pages(const PretrainOptions& o, const Corpus& corpus, const RunModel& model, const ClockPlan& plan,
                 const std::string& result, const std::string& folder) {
  if (!model.moe.dense() || find_task(o.task).causal() || o.norm == "pre") return;  // the export writes one
  const auto places = static_cast<double>(o.tokens);
  const auto masked =
      static_cast<double>(training_pieces(o, corpus).masking.rows);  // of each step, a multiple of 64
  const std::string overlap =
      corpus.test_rows > 0
          ? fmt::format("share {} words in a row with a test row of {}, left out", o.overlap_words, corpus.excluded)
          : "compared with no test row";
  std::string page = fmt::format(
      "# {0}\n\nA BERT-like encoder of {1} layers (hidden size {2}, {3} heads, FFN {4}) with its masked-LM head, made by Glia's "
      "`./experiments/pretrain` with seed {5}: {6} steps of {7}{8} places, {9:.0f} % of the words masked; {10}.\n{11}\n"
      "| source | documents | {12} | validation rows, left out | held out | beside held-out ones, left out |\n"
      "|---|---|---|---|---|---|\n",
      model.name, o.layers, o.hidden, o.heads, o.ffn, o.seed, plan.steps, o.ramp > 0 ? "up to " : "",
      o.tokens * o.micro_batches, 100 * masked / places, result, topics_page(o, corpus), overlap);
  for (const Corpus::Source& s : corpus.sources)
    page += fmt::format("| {} | {} | {} | {} | {} | {} |\n", s.name, s.documents, s.overlapping, s.validation,
                        s.held_out, s.guards);
  page += fmt::format(
      "\nTo go on from it: `./experiments/train --init FOLDER`, or transformers' `BertForMaskedLM.from_pretrained`. `pretraining.json` says "
      "how it was made.\n");
  write_file_atomic(folder + "/README.md", page);
}

void dump_text(const PretrainOptions& o, const Corpus& corpus, const std::string& folder, std::FILE* out) {
  make_folder(folder);
  const bool narrow = corpus.vocabulary().size() <= 65536;
  const std::string ids = narrow ? "tokens.u16" : "tokens.i32";
  write_file_atomic(folder + "/" + ids, ids_of(corpus, narrow));
  int64_t before = 0;
  for (const auto& [name, part] :
       {std::pair{"training", &corpus.training}, std::pair{"held_out", &corpus.held_out}}) {
    std::vector<int64_t> offsets = part->offsets;
    for (int64_t& offset : offsets) offset += before;
    before += part->tokens();
    write_file_atomic(fmt::format("{}/{}.i64", folder, name), bytes_of(offsets));
  }
  PretrainOptions words = o;
  words.joint = 0;  // the first rows of sequences are no masked ones
  const PieceOptions pieces = training_pieces(words, corpus);
  const int64_t batches = dump_batches(corpus.held_out, held_out_pieces(words, corpus), INT64_MAX,
                                       folder + "/batches.i32"),
                first = dump_batches(corpus.training, pieces, kDumpedSteps, folder + "/first.i32");
  const Json json = {{"tokens", ids},
                     {"places", o.tokens},
                     {"longest", o.max_length},
                     {"masked", pieces.masking.rows},
                     {"vocabulary", corpus.vocabulary().size()},
                     {"first_word", pieces.masking.first_word},
                     {"cls", pieces.cls},
                     {"sep", pieces.sep},
                     {"mask", pieces.masking.mask_id},
                     {"prompts", pieces.prompts},
                     {"enders", pieces.enders},
                     {"held_out_batches", batches},
                     {"first_batches", first}};
  write_file_atomic(folder + "/dump.json", json.dump(2) + "\n");
  fmt::print(out, "dump       {}: ids, split and {} held-out batches\n", folder, batches);
}

}  // namespace glia

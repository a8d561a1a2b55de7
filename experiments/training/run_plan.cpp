// Which runs there are, what each is made of, and what config.json says of it.
#include <algorithm>
#include <filesystem>

#include "data/tokens/tokenizer_config.h"
#include "engine/core/build_info.h"
#include "engine/core/file.h"
#include "engine/core/json.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/run.h"

namespace fs = std::filesystem;

namespace glia {

using results::Json;

// What of config.json says what is computed; the rest may differ between two sittings of one run.
results::Json run_identity(const results::Json& whole) {
  Json json = Json::object();
  for (const auto& [key, value] : whole.items())
    if (!results::is_incidental(key)) json[key] = value;
  if (json.contains("train"))
    json["train"].emplace("gradients", "float32");  // kept only where it is something else
  return json;
}

namespace {

// Of a record's key, what its flag has where nobody types it; null of what is no flag's.
Json usual_value(const std::string& key) {
  static const Json all = [] {
    Json json = Json::object();
    for (const Flag::Part part : {Flag::Part::kModel, Flag::Part::kTrain, Flag::Part::kProtocol, Flag::Part::kData})
      json.update(to_json(Options{}, part));
    return json;
  }();
  return all.value(key, Json());
}

// Runs from before there was a choice have none of these.
void leave_out_usual(Json& part) {
  Json kept = Json::object();
  for (const auto& [key, value] : part.items())
    if (!results::left_out(key) || value != usual_value(key)) kept[key] = value;
  part = std::move(kept);
}

std::string first_difference(const Json& before, const Json& now, const std::string& where) {
  const auto named = [&](const std::string& key) { return where.empty() ? key : where + "." + key; };
  const auto later = [](const std::string& key) { return key == "weights_hash"; };  // older records have none
  for (const auto& [key, value] : now.items()) {
    if (later(key) && !before.contains(key)) continue;
    const Json old = before.contains(key) ? before[key] : usual_value(key);
    if (old == value) continue;
    if (old.is_object() && value.is_object()) {
      if (std::string deeper = first_difference(old, value, named(key)); !deeper.empty()) return deeper;
    } else {
      return fmt::format("{} is {}, and {} is asked for", named(key), old.is_null() ? "not set" : old.dump(),
                         value.dump());
    }
  }
  for (const auto& [key, value] : before.items()) {
    if (now.contains(key) || later(key)) continue;
    const Json usual = usual_value(key);
    if (value != usual)
      return fmt::format("{} is {}, and {} is asked for", named(key), value.dump(),
                         usual.is_null() ? "none" : usual.dump());
  }
  return "";
}

std::string routing_flags_of(const MoeConfig& moe) {
  if (moe.dense()) return "dense has none";
  std::string line = moe.router + " has";
  for (const OptionRow& row : routing_options(moe.router)) line += fmt::format(" --{}", row.name);
  return line;
}

// Where the study says what an error begins with, "x.study:7: [mine]: "; "": it does not, or somebody typed it.
std::string place_of(std::string_view error, const Options& options, const Study& study, const Configuration* row) {
  const bool of_flag = error.starts_with("--");
  if (!of_flag && !error.starts_with("router ")) return "";
  error.remove_prefix(of_flag ? 2 : 0);
  const std::string key(error.substr(0, error.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-")));
  if (options.typed.contains(key)) return "";
  if (row && row->places.contains(key)) return fmt::format("{}: [{}]: ", row->places.at(key), row->name);
  return study.places.contains(key) ? study.places.at(key) + ": " : "";
}

// What a configuration itself says must be its router's.
void check_own_flags(const Options& options, const RunSpec& spec) {
  for (const auto& [name, value] : spec.options.routing.all())
    if (!options.routing.contains(name) && !spec.model.moe.options.contains(name))
      fail_input("--{}: expected an option of its router ({}), got '{}'", name, routing_flags_of(spec.model.moe),
                 option_text(value));
  for (const auto& [name, why] : idle_options(spec.model.moe))
    if (!options.routing.contains(name)) fail_input("{}", why);
}

// A flag that no run of these takes, or that changes none, is an error; where some do, it is theirs.
void check_routing_flags(const Options& options, const Study& study, const std::vector<RunSpec>& specs) {
  for (const auto& [name, value] : options.routing.all()) {
    std::string known, idle;
    bool taken = false;
    for (const RunSpec& spec : specs) {
      const std::map<std::string, std::string> without = idle_options(spec.model.moe);
      const auto found = without.find(name);
      if (found != without.end()) idle = found->second;
      taken = taken || (spec.model.moe.options.contains(name) && found == without.end());
      const std::string line = routing_flags_of(spec.model.moe);
      if (known.find(line) == std::string::npos) known += (known.empty() ? "" : "; ") + line;
    }
    if (taken) continue;
    const std::string place = place_of("--" + name, options, study, nullptr);
    if (!idle.empty()) fail_input("{}{}", place, idle);
    fail_input("{}--{}: expected an option of a router that is run ({}), got '{}'", place, name, known,
               option_text(value));
  }
}

// A study's rows may bring weights of their own: it is enough that one run has some to take layers from.
void check_init_layers(const Options& options, const std::vector<RunSpec>& specs) {
  const auto asks = [](const RunSpec& s) { return s.options.init_layers > 0; };
  const auto has = [&](const RunSpec& s) { return asks(s) && !s.options.init.empty(); };
  if (options.init.empty() && std::ranges::any_of(specs, asks) && std::ranges::none_of(specs, has))
    refuse_init_layers(std::ranges::find_if(specs, asks)->options.init_layers);
}

// "run:NAME": of the same result folder; "run:FOLDER/NAME": of another one. The run of the same seed either way.
std::string start_folder(const Options& o, int seed) {
  const std::string start = start_run(o.init);
  const size_t slash = start.rfind('/');
  if (slash == std::string::npos) return results::run_folder(o.out, seed, start);
  return results::run_folder(start.substr(0, slash), seed, start.substr(slash + 1));
}

Json json_of(const OptionValue& value) {
  return std::visit([](const auto& v) { return Json(v); }, value);
}

}  // namespace

std::vector<RunSpec> plan_runs(const Options& options, const std::vector<std::string>& configs) {
  return plan_runs(options, find_study(options.study), configs);
}

namespace {

using WeightsByPath =
    std::map<std::string, CheckedWeights>;  // by path and shape: nine runs from one file read it once

// `before`: the runs that are planned already.
RunSpec plan_run(const Options& options, const Study& study, const Configuration& row, int seed,
                 const std::vector<RunSpec>& before, WeightsByPath& checked) {
  RunSpec spec{options, {}, seed, ""};
  apply_settings(spec.options, row.settings);
  if (spec.options.encoder == "bag" && !options.init.empty()) {  // no encoder's weights fit it
    spec.options.init.clear();
    spec.sets.push_back("init");
  }
  if (spec.options.init != options.init) {  // weights of its own
    std::set<std::string> given = options.typed;
    for (const auto& [key, value] : row.settings) given.insert(key);
    shape_by_weights(spec.options, given);
  }
  check_options(spec.options);
  check_batch(spec.options);
  const Options& o = spec.options;
  spec.model = run_model(o, row);
  if (o.encoder == "bag" && !spec.model.moe.dense())
    fail_input("--encoder bag: expected a configuration without a router, got {} with {}", row.name,
               spec.model.moe.router);
  check_own_flags(options, spec);
  spec.folder = results::run_folder(o.out, seed, spec.model.name);
  spec.study = study.name;
  for (const auto& [key, value] : row.settings)
    if (!o.typed.contains(key)) spec.sets.push_back(json_key(key));
  if (const std::string start = start_run(o.init); start.empty() && !o.init.empty()) {
    const std::string key = fmt::format("{} {} {} {} {}", o.init, o.init_layers, o.layers, o.hidden, o.ffn);
    if (!checked.contains(key)) checked[key] = check_weights(o);
    spec.weights = checked[key];
  } else if (!start.empty()) {
    spec.starts_from = start_folder(o, seed);
    const bool planned =
        std::ranges::any_of(before, [&](const RunSpec& s) { return s.folder == spec.starts_from; });
    if (!planned && !results::is_done(spec.starts_from))
      fail_input("--init {}: {} wants the finished run {}, which is neither there nor planned before it", o.init,
                 spec.title(), spec.starts_from);
  }
  if (ParameterSet unused; !spec.model.moe.dense()) {
    BertConfig shape;
    shape.hidden = o.hidden, shape.ffn = o.ffn;
    make_mixture(unused, "layer", spec.model.moe, shape, 0);  // only to hear what does not go together
  }
  check_model(o, spec.model);
  return spec;
}

}  // namespace

std::vector<RunSpec> plan_runs(const Options& options, const Study& study,
                               const std::vector<std::string>& configs) {
  std::vector<RunSpec> specs;
  WeightsByPath checked;
  for (const int seed : parse_seeds(options.seeds))
    for (const std::string& config : configs) {
      const Configuration& row = configuration_of(study, config);
      try {
        specs.push_back(plan_run(options, study, row, seed, specs, checked));
      } catch (const Error& error) {
        fail_input("{}{}", place_of(error.what(), options, study, &row), error.what());
      }
    }
  check_routing_flags(options, study, specs);
  check_init_layers(options, specs);
  return specs;
}

std::vector<const RunSpec*> first_of_each_folder(const std::vector<RunSpec>& specs) {
  std::vector<const RunSpec*> first;
  for (const RunSpec& spec : specs)
    if (std::ranges::none_of(first, [&](const RunSpec* f) { return f->options.out == spec.options.out; }))
      first.push_back(&spec);
  return first;
}

void require_same_words(const RunSpec& spec, const Dataset& data) {
  if (spec.starts_from.empty()) return;
  const fs::path vocabulary = fs::path(spec.starts_from).parent_path().parent_path() / "vocab.txt";
  if (fs::exists(vocabulary) && Vocabulary::from_file(vocabulary.string()).hash() != data.vocabulary().hash())
    fail_input("--init {}: was trained with other word pieces than {}; say --vocab {}", spec.options.init,
               data.vocabulary().source(), vocabulary.string());
}

void require_labels_told(const RunSpec& spec, const Dataset& data) {
  const MoeConfig& moe = spec.model.moe;
  const OptionRow* row = moe.dense() ? nullptr : router_row(moe.router).labels;
  if (!row) return;
  if (const auto told = moe.options.get<int64_t>(*row); told < data.classes())
    fail_input("--{}: expected the {} labels of the data at least, got {} with router {}", row->name,
               data.classes(), told, moe.router);
}

Options training_options(const RunSpec& spec) {
  Options o = spec.options;
  if (!spec.starts_from.empty()) o.init = spec.starts_from;
  return o;
}

results::RunConfig run_config(const RunSpec& spec, const Dataset& data, uint64_t fingerprint,
                              const std::string& device, const std::string& command) {
  const Options& o = spec.options;
  results::RunConfig c;
  c.config = spec.model.name;
  c.seed_index = spec.seed_index;
  c.seed = spec.seed();
  c.protocol = o.protocol;
  c.preset = o.preset;
  c.precision = o.precision;
  c.router = spec.model.moe.router;
  c.balance = spec.model.moe.balance;
  c.energy = spec.model.moe.energy;
  c.model = to_json(o, Flag::Part::kModel);
  if (o.norm == "post") c.model.erase("norm");  // runs from before there was a choice have none
  if (o.position_encoding == "learned") c.model.erase("position_encoding");  // likewise
  c.model["experts"] = spec.model.moe.dense() ? 0 : spec.model.moe.n_experts;
  c.model["top_k"] = spec.model.moe.dense() ? 0 : spec.model.moe.top_k;
  if (!spec.model.moe.dense()) {
    const OptionValues& set = spec.model.moe.options;
    for (const OptionRow& row : router_row(spec.model.moe.router).options)
      c.model[option_key(row.name)] = json_of(set.contains(row.name) ? set.all().at(row.name) : row.standard);
    for (const auto& [name, value] : set.all()) c.model[option_key(name)] = json_of(value);
    if (c.model.value("context", "") == "first")
      c.model.erase("context");  // runs from before there was a choice have none
  }
  c.model["classes"] = data.classes();
  c.model["vocabulary"] = data.vocabulary().size();
  if (o.encoder == "bert")
    for (const char* key : {"encoder", "ngrams", "ngram_buckets"}) c.model.erase(key);
  // Kept only where weights say something else: older runs have none of them.
  if (const BertConfig usual;
      o.positions != usual.positions || o.types != usual.types || o.norm_eps != usual.layer_norm_eps) {
    c.model["positions"] = o.positions;
    c.model["types"] = o.types;
    c.model["norm_eps"] = o.norm_eps;
  }
  c.train = to_json(o, Flag::Part::kTrain);
  leave_out_usual(c.train);
  if (o.task == "classification") c.train.erase("mask_rate");
  // As those that are left out; but what computes the same in another order may stand in one table.
  if (o.reduction == "fast")
    for (const char* key : {"reduction", "chunks"}) c.train.erase(key);
  c.train["max_length"] = o.max_length;
  if (o.gradients != "float32")
    c.train["gradients"] = o.gradients;  // runs from before there was a choice have none
  c.train["data_hash"] = fmt::format("{:016x}", fingerprint);
  if (spec.weights.hash != 0) c.train["weights_hash"] = fmt::format("{:016x}", spec.weights.hash);
  c.options = to_json(o, Flag::Part::kProtocol);
  c.data = data_info(data);
  c.data.options = to_json(o, Flag::Part::kData);
  leave_out_usual(c.data.options);
  // Only what the copy of the vocabulary does not say by itself.
  if (!data.tokenizer->lowercase()) c.data.options["lowercase"] = false;
  else if (is_cased(data.vocabulary())) c.data.options["lowercase"] = true;
  c.commit = build_commit();
  c.device = device;
  c.command = command;
  c.study = spec.study;
  c.sets = spec.sets;
  return c;
}

std::string changed_setting(const Json& before, const Json& now) { return first_difference(before, now, ""); }

void require_same_run(const std::string& folder, const results::RunConfig& config) {
  const std::string path = folder + "/config.json";
  if (!fs::exists(path)) return;
  const Json before = run_identity(read_json_object(path)), now = run_identity(results::to_json(config));
  const std::string difference = changed_setting(before, now);
  if (!difference.empty())
    fail_input(
        "{}: this run was made with other settings: its {}; choose another --out, or --fresh on to begin it anew",
        folder, difference);
}

}  // namespace glia

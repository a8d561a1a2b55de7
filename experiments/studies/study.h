// A study is data: its configurations and their order, what they are compared with, what was published, how they are
// drawn. The built-in ones are experiments/studies/*.study, made into strings when the program is built; any other
// file of the same format does as well (docs/studies.md).
#pragma once
#include "experiments/studies/configurations.h"
#include "experiments/studies/grid.h"

namespace glia {

struct Options;

struct Study {
  std::string name, title;
  std::string text;                                           // the file's: result folders keep it
  std::vector<std::pair<std::string, std::string>> settings;  // flags and values for all its runs
  std::map<std::string, std::string> places;                  // of its keys in the file, "zoo.study:3"
  std::vector<Configuration> configurations;                  // in the order of tables and plots
  // Accuracy is compared with each of the first, every compared metric of routing with each of the second; the main
  // baseline is the first of a list.
  std::vector<std::string> accuracy_baselines, routing_baselines;
  std::string published_data, published_note;
  int published_layers = 0;
  Grid grid;                  // empty: the study has one recipe
  std::vector<Claim> claims;  // looked at in every cell of the grid

  const Configuration* find(std::string_view name) const;  // nullptr: not one of its own
  const std::string& accuracy_baseline() const { return accuracy_baselines.front(); }
  std::string routing_baseline() const { return routing_baselines.empty() ? "" : routing_baselines.front(); }
  // What was published about a metric of a configuration, where the run's data set is the published one and, for a
  // layer's metric, the model has as many layers; else nullptr.
  const Published* published(const std::string& config, const std::string& metric, const std::string& data_set,
                             int layers) const;
};

inline constexpr const char* kDefaultStudy = "ahr";

std::span<const Study> built_in_studies();              // ahr first
std::string_view built_in_text(std::string_view name);  // "": there is no such study
// Errors name file, line, what was expected and what came. `from` may be a path; its stem names the study.
Study parse_study(const std::string& text, const std::string& from);
// The name of a built-in one, or the path of a file.
Study find_study(const std::string& name_or_path);
// Its own configuration, else one of the built-in studies; an unknown name is an error that lists the study's.
const Configuration& configuration_of(const Study& study, std::string_view name);
const Configuration& configuration_of(Study&& study, std::string_view name) = delete;  // would be gone with it
// "all" (the study's, in its order) or names separated by commas, each configuration once, by its own name where it is the
// study's. Two that differ and have one name for their runs are an error.
std::vector<std::string> parse_configs(const std::string& text, const Study& study = built_in_studies().front());
// The order of tables and plots: the study's own configurations first, then the others by name.
bool configuration_less(const Study& study, const std::string& a, const std::string& b);

// Sets what was not typed on the command line.
void apply_settings(Options& options, const std::vector<std::pair<std::string, std::string>>& settings);

// "run:dense" → "dense": a configuration may start from the finished run of another one, of the same seed and result
// folder, or with a folder in front ("run:results/dense") of another result folder; "": something else.
std::string start_run(const std::string& init);

}  // namespace glia

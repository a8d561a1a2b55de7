#include "data/datasets/options.h"

#include <algorithm>

#include "data/datasets/dataset.h"
#include "engine/core/check.h"

namespace glia {
namespace {

using D = DatasetOptions;
using Kept = DataOption::Kept;

constexpr double kMostRows = 1e9;  // of a part: beyond it neither memory nor time would do

template <class T>
DataOption option(const char* name, T D::*member, Kept kept, const char* help,
                  std::vector<const char*> read_by = {}, double least = -std::numeric_limits<double>::infinity(),
                  double most = std::numeric_limits<double>::infinity(), std::vector<const char*> choices = {}) {
  return {
      {name, OptionValue(D{}.*member), help, least, most, std::move(choices)}, member, kept, std::move(read_by)};
}

std::string joined(const std::vector<const char*>& names) {
  std::string text;
  for (const char* name : names) {
    if (!text.empty()) text += " or ";
    text += name;
  }
  return text;
}

}  // namespace

const std::vector<DataOption>& data_options() {
  constexpr double kFree = std::numeric_limits<double>::infinity();
  static const std::vector<DataOption> table{
      option("dataset", &D::dataset, Kept::kData,
             "ag_news, csv, synthetic, or auto: AG News where it lies, else synthetic"),
      option("data", &D::data, Kept::kNowhere, "folder of the data set", {"ag_news", "csv"}),
      option(
          "vocab", &D::vocab, Kept::kNowhere,
          "WordPiece vocabulary, or bytes: each byte is a token; without: beside the data, else trained on the spot"),
      option("vocab-size", &D::vocab_size, Kept::kData, "tokens of a vocabulary that is trained on the spot", {}, 6,
             1e7),
      option("lowercase", &D::lowercase, Kept::kNowhere,
             "whether texts are lower-cased: on, off, or auto: as the vocabulary is, or tokenizer_config.json says",
             {}, -kFree, kFree, {"auto", "on", "off"}),
      option("cache", &D::cache, Kept::kNowhere, "folder for token ids; empty: none"),
      option(
          "max-length", &D::max_length, Kept::kData,
          "tokens of a sequence, [CLS] and [SEP] included, so 3 at least: a shorter one would hold no word (a text without any is those two)",
          {}, 3, 1 << 20),
      option(
          "only-topics", &D::only_topics, Kept::kData,
          "only the rows of these topics, by name or number from 0, separated by commas; counted anew in that order"),
      option("max-rows", &D::max_rows, Kept::kData,
             "training rows, a stratified part, rounded class by class; validation likewise; 0: all", {}, 0,
             kMostRows),
      option("max-test-rows", &D::max_test_rows, Kept::kData, "test rows, likewise; 0: all", {}, 0, kMostRows),
      option("validation-fraction", &D::validation_fraction, Kept::kProtocol,
             "part of the training rows held out for model selection", {}, 0, 0.999),
      option("split-seed", &D::split_seed, Kept::kData, "fixes the validation rows, whatever the run's seed", {}, 0,
             kFree),
      option("skip-bad-rows", &D::skip_bad_rows, Kept::kData,
             "on: leave out malformed rows of a file, else they are errors", {"ag_news", "csv"}),
      option("prompt", &D::prompt, Kept::kData,
             "what of a text is its prompt: none, title: all but its last column, or sentence: its first one; rows "
             "without a prompt, or with nothing else, are left out",
             {}, -kFree, kFree, {"none", "title", "sentence"}),
      option("csv-train", &D::csv_train, Kept::kData, "the training file; implies --dataset csv", {"csv"}),
      option("csv-test", &D::csv_test, Kept::kData, "csv: the test file; without it a tenth of the rows", {"csv"}),
      option("csv-label", &D::csv_label, Kept::kData, "csv: the label's column, by name or number from 1", {"csv"}),
      option("csv-text", &D::csv_text, Kept::kData, "csv: the text columns, separated by commas", {"csv"}),
      option("csv-header", &D::csv_header, Kept::kData, "csv: whether the first line holds names", {"csv"}),
      option("csv-separator", &D::csv_separator, Kept::kData,
             "csv: comma, semicolon, tab, pipe, or auto: from the first line", {"csv"}, -kFree, kFree,
             {"auto", "comma", "semicolon", "tab", "pipe"}),
      option("topics", &D::topics, Kept::kData, "synthetic: topics", {"synthetic"}, 2, 1000),
      option("synthetic-rows", &D::synthetic_rows, Kept::kData, "synthetic: training rows", {"synthetic"}, 1,
             kMostRows),
      option("synthetic-test-rows", &D::synthetic_test_rows, Kept::kData, "synthetic: test rows", {"synthetic"}, 1,
             kMostRows),
      option("synthetic-seed", &D::synthetic_seed, Kept::kData, "synthetic: seed of the corpus", {"synthetic"}, 0,
             kFree),
      option("difficulty", &D::difficulty, Kept::kData,
             "synthetic: 0 every topical word tells the topic, 1 none does", {"synthetic"}, 0, 1),
  };
  return table;
}

OptionValue data_option_value(const DatasetOptions& options, const DataOption& option) {
  return std::visit([&](auto member) { return OptionValue(options.*member); }, option.member);
}

void set_data_option(DatasetOptions& options, const DataOption& option, const std::string& text) {
  const OptionValue value = parse_option(option.row, text);
  std::visit(
      [&](auto member) {
        using T = std::decay_t<decltype(options.*member)>;
        options.*member = std::get<T>(value);
      },
      option.member);
}

void check_data_options(const DatasetOptions& options) {
  for (const DataOption& option : data_options()) check_option(option.row, data_option_value(options, option));
}

void settle_data_options(DatasetOptions& options, const std::set<std::string>& given) {
  if (options.dataset == "auto" && !options.csv_train.empty()) options.dataset = "csv";
  const std::string name = find_dataset(dataset_name(options)).name;
  for (const DataOption& option : data_options()) {
    const auto reads = [&](const char* reader) { return name == reader; };
    if (given.contains(option.row.name) && !option.read_by.empty() &&
        std::none_of(option.read_by.begin(), option.read_by.end(), reads))
      fail_input("--{}: the data set {} does not read it; say --dataset {}", option.row.name, name,
                 joined(option.read_by));
  }
  if (given.contains("vocab-size") && !options.vocab.empty())
    fail_input("--vocab-size: not read beside --vocab, whose tokens are those of {}", options.vocab);
  if (options.lowercase == "on" && options.vocab == "bytes")
    fail_input("--lowercase on: not read beside --vocab bytes, whose tokens are a text's bytes as they stand");
}

}  // namespace glia

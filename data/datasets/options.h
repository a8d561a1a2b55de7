// What a person can choose about data, in one table: it drives the flags, help, defaults and bounds of every program
// that reads a data set, and what config.json keeps of them. A default is written once, at its member.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "engine/core/command_line/options.h"

namespace glia {

struct DatasetOptions {
  std::string dataset = "auto";  // a registry row, or auto: ag_news where its files are, else synthetic
  std::string data;              // "": data/ag_news
  std::string vocab;             // "": vocab.txt in the data folder or above it, else trained on the train texts
  int64_t vocab_size = 8000;
  std::string lowercase = "auto";
  std::string cache = "data/cache";  // "": none
  int64_t max_length = 128;
  std::string only_topics;  // "": all
  int64_t max_rows = 0, max_test_rows = 0;
  double validation_fraction = 0.05;  // of the train rows of each class
  int64_t split_seed = 1;
  bool skip_bad_rows = false;
  std::string prompt = "none";  // where a text's prompt ends
  // csv: columns are header names or numbers from 1, text columns are joined by a space
  std::string csv_train, csv_test, csv_label = "label", csv_text = "text", csv_separator = "auto";
  bool csv_header = true;
  // synthetic (datasets/synthetic.h)
  int64_t topics = 4, synthetic_rows = 12000, synthetic_test_rows = 2400, synthetic_seed = 1;
  double difficulty = 0.5;
};

struct DataOption {
  using Member = std::variant<std::string DatasetOptions::*, int64_t DatasetOptions::*, double DatasetOptions::*,
                              bool DatasetOptions::*>;
  // Which part of a run's config.json keeps it. kNowhere: a path or what the path's bytes already say.
  enum class Kept { kNowhere, kData, kProtocol };

  OptionRow row;  // its default is the member's
  Member member;
  Kept kept;
  std::vector<const char*> read_by;  // the data sets that read it; none: all of them
};

const std::vector<DataOption>& data_options();

OptionValue data_option_value(const DatasetOptions& options, const DataOption& option);
// Errors as parse_option's.
void set_data_option(DatasetOptions& options, const DataOption& option, const std::string& text);

// Bounds of every row. Error: the first that is broken, by its flag's name.
void check_data_options(const DatasetOptions& options);

// After the command line: --csv-train implies --dataset csv; a flag that was typed and that the data set does not
// read is an error. `given`: the names of the flags that were typed (those of other tables are not looked at).
void settle_data_options(DatasetOptions& options, const std::set<std::string>& given);

}  // namespace glia

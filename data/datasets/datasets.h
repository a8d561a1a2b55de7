// The loaders that registry.cpp lists; what each means is said there and in their files.
#pragma once

#include "data/datasets/dataset.h"

namespace glia::datasets {

TextDataset load_ag_news(const DatasetOptions& options, BadRows& bad_rows);
uint64_t ag_news_key(const DatasetOptions& options);
bool ag_news_is_there(const DatasetOptions& options);
std::string ag_news_dir(const DatasetOptions& options);

TextDataset load_csv(const DatasetOptions& options, BadRows& bad_rows);
uint64_t csv_key(const DatasetOptions& options);

TextDataset load_synthetic(const DatasetOptions& options, BadRows& bad_rows);
uint64_t synthetic_key(const DatasetOptions& options);

// The places of --only-topics' names, or numbers, among a data set's classes. Errors: an unknown one, one twice, a single one.
std::vector<int32_t> topics_named(const std::string& list, const std::vector<std::string>& names);

}  // namespace glia::datasets

// Token ids on disk. An entry is believed only if its name, its key and its checksum fit; anything else is rebuilt.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/datasets/dataset.h"

namespace glia {

struct CachedTokens {
  std::vector<std::string> class_names, vocabulary;  // vocabulary: empty unless it was trained on the spot
  std::string source;
  std::vector<std::string> notes;  // of the loader
  bool is_synthetic = false;
  std::optional<double> bayes_accuracy;
  TokenSplit train, test;
};

// nullopt when there is no such entry or it is not whole.
std::optional<CachedTokens> read_token_cache(const std::string& dir, const std::string& name, uint64_t key);

// A cache that cannot be written is no error: the message comes back ("" when all went well).
std::string write_token_cache(const std::string& dir, const std::string& name, uint64_t key,
                              const CachedTokens& tokens);

}  // namespace glia

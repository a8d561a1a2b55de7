// Whether a vocabulary wants lower-cased texts: as the user says, as Hugging Face's tokenizer_config.json beside it
// says, or as its own tokens tell.
#pragma once

#include <optional>
#include <string>

#include "data/tokens/vocabulary.h"

namespace glia {

// What of tokenizer_config.json a WordPiece tokenizer has a say in; none: the file does not say.
struct TokenizerConfig {
  std::string path;
  std::optional<bool> lowercase;      // do_lower_case
  std::optional<int64_t> max_length;  // model_max_length, where it is a length (not "very large")
};

// FOLDER/tokenizer_config.json; nullopt where there is none. Errors name the file and the key: no JSON, another type,
// a setting that is not ours (strip_accents other than do_lower_case, tokenize_chinese_chars false, tokens added to BERT's, here or in
// added_tokens.json, a tokenizer class that is neither BERT's nor, beside a tokenizer.json, one for any of those).
std::optional<TokenizerConfig> read_tokenizer_config(const std::string& folder);

// Whether a token has a letter that the clean-up of lower-cased texts would change: a capital, an accent. Then texts in
// lower case cannot reach it. `token`: in a file, not counting "##", special tokens in brackets left out.
bool is_cased(const Vocabulary& vocabulary);

struct LetterCase {
  bool lowercase = true;
  std::string why;  // for a person; "" where it is what everybody expects
};

// setting: on, off or auto; `path`: the vocabulary's file, "" for one that was trained on lower-cased texts.
LetterCase letter_case(const std::string& setting, const Vocabulary& vocabulary, const std::string& path);

}  // namespace glia

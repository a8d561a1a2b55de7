// tokenizer.json of Hugging Face's `tokenizers`: what transformers 5 writes in vocab.txt's place.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace glia {

struct TokenizerJson {
  std::vector<std::string> tokens;  // by id
  bool lowercase = true;
};

bool is_tokenizer_json(std::string_view path);  // by its name's end, .json

// The vocabulary and the casing of a WordPiece tokenizer. Errors name the source and the key: no JSON, another model (BPE, …), ids that
// are not 0, 1, 2, …, a normaliser or a cutting into words that is not BERT's, added tokens.
TokenizerJson read_tokenizer_json(std::string_view text, const std::string& source);

// An error for a token that would be found whole in the raw text and is none of BERT's five: this tokenizer would cut it into
// pieces, whose ids are others. `source`: the file and the key.
void refuse_added_token(const std::string& source, const std::string& token);

}  // namespace glia

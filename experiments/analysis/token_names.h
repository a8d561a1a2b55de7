// What a model's ids are called, whatever its tokenizer is: only names are read, nothing is cut into tokens by them.
#pragma once
#include <string>
#include <vector>

namespace glia::results {

// The name of each id; "" for one that the file does not name. The file is, by its name's end,
//   *.json   a tokenizer.json of Hugging Face's tokenizers, of any model.type (model.vocab an object {token: id}, or of
//            Unigram a list of [token, score]), with its added_tokens; or a vocab.json, an object {token: id}
//   else     one token a line, the line's number (from 0) is the id; a token may stand there twice
// Names of byte-level BPE are shown as the text that their bytes are, a space as "▁", as sentencepiece writes it, and a
// line's end as \n; a token that is a part of a character, and every other name, stays as it stands.
// Errors name the file and the line or key: another kind of file, an empty line, bytes that are no UTF-8, an id that is no
// number below 2^24, two tokens of one id.
std::vector<std::string> token_names(const std::string& path);

}  // namespace glia::results

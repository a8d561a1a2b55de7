#include "data/batches/pieces.h"

#include <algorithm>
#include <cstring>

#include "data/datasets/prompts.h"
#include "engine/core/check.h"
#include "engine/core/random/rng.h"

namespace glia {
namespace {

constexpr int64_t kAround = 2;  // [CLS] and [SEP]
// Of the shuffling of rows, streams of their own.
constexpr uint32_t kBorders = purpose::kShuffle + 1, kOrder = purpose::kShuffle + 2;

// How long the first piece of a document of n words is.
int64_t first_length(const PieceOptions& o, int64_t epoch, int64_t document, int64_t n) {
  const int64_t body = o.longest - kAround;
  if (n <= body || !o.moving) return std::min(n, body);
  const int64_t least = std::max<int64_t>(1, body / 4);
  return least + static_cast<int64_t>(random_below(static_cast<uint64_t>(body - least + 1), o.seed, kBorders,
                                                   static_cast<uint32_t>(epoch), static_cast<uint64_t>(document)));
}

}  // namespace

int64_t piece_room(const TokenSplit& documents, const PieceOptions& o) {
  const int64_t body = o.longest - kAround;
  double pieces = 0;
  for (int64_t d = 0; d < documents.size(); ++d)
    pieces += static_cast<double>((documents.length(d) + body - 1) / body);
  // A document of many pieces has half a piece more for its moving border; so may a batch have at its ends.
  const double mean = (static_cast<double>(documents.tokens()) + kAround * pieces) / std::max(1.0, pieces);
  const double most = static_cast<double>(o.places) / 3;  // pieces of one word
  const double room = std::min(most, 1.25 * static_cast<double>(o.places) / mean + 64);
  return (static_cast<int64_t>(room) + 64) / 64 * 64;
}

PieceStream::PieceStream(const TokenSplit& documents, const PieceOptions& options)
    : documents_(documents), options_(options) {
  CHECK(options.longest > kAround && options.places >= options.longest,
        "pieces: want at least 3 places and no more than the batch's {}, got {}", options.places, options.longest);
  CHECK(options.cls >= 0 && options.sep >= 0, "pieces: want [CLS] and [SEP], got {} and {}", options.cls,
        options.sep);
  CHECK(documents.tokens() > 0, "pieces: want documents with words, got {} without one", documents.size());
  CHECK(documents.size() < INT32_MAX, "pieces: {} documents are too many", documents.size());
  if (options_.sequences == 0) options_.sequences = piece_room(documents, options);
  CHECK(options.masking.sequences == 0 || options.masking.sequences == options_.sequences,
        "pieces: want labels of all {} pieces, got {}", options_.sequences, options.masking.sequences);
  cut();
}

void PieceStream::cut() {
  const int64_t body = options_.longest - kAround;
  std::vector<Piece> pieces;
  for (int64_t d = 0; d < documents_.size(); ++d) {
    const int64_t n = documents_.length(d), begin = documents_.offsets[d];
    for (int64_t at = 0, length = first_length(options_, epoch_, d, n); at < n; at += length, length = body)
      pieces.push_back({begin + at, std::min(length, n - at), d});
  }
  const std::vector<int32_t> order =
      random_permutation(static_cast<int64_t>(pieces.size()), options_.seed, kOrder, static_cast<uint32_t>(epoch_));
  pieces_.clear();
  pieces_.reserve(pieces.size());
  for (const int32_t i : order) pieces_.push_back(pieces[static_cast<size_t>(i)]);
  at_ = 0;
}

// Moves on to a piece that has words left; false after the last epoch.
bool PieceStream::next() {
  while (at_ < pieces_.size() && pieces_[at_].length == 0) ++at_;
  if (at_ < pieces_.size()) return true;
  if (options_.epochs > 0 && epoch_ + 1 == options_.epochs) return false;
  ++epoch_;
  cut();
  return true;
}

// Chooses a batch's pieces: place(where, begin, words, document) for each.
template <class Place> bool PieceStream::pack(Place&& place) {
  int64_t at = 0, sequences = 0;
  while (at + kAround < options_.places && next()) {
    if (sequences == options_.sequences) {
      ++crowded_;
      break;
    }
    Piece& piece = pieces_[at_];
    const int64_t words = std::min(piece.length, options_.places - at - kAround);
    place(at, piece.begin, words, piece.document);
    piece.begin += words, piece.length -= words;
    at += words + kAround, ++sequences;
  }
  if (sequences > 0) ++batch_;
  return sequences > 0;
}

bool PieceStream::fill(BatchView& out) {
  CHECK(out.token_capacity >= options_.places && out.sequence_capacity >= options_.sequences,
        "pieces: want room for {} places and {} pieces, got {} and {}", options_.places, options_.sequences,
        out.token_capacity, out.sequence_capacity);
  next();
  const auto epoch = static_cast<uint32_t>(epoch_), batch = static_cast<uint32_t>(batch_);
  int64_t tokens = 0, b = 0;
  spans_.clear(), before_.clear();
  const bool any = pack([&](int64_t at, int64_t begin, int64_t words, int64_t document) {
    int32_t* to = out.ids + at;
    *to = options_.cls;
    std::memcpy(to + 1, documents_.ids.data() + begin, static_cast<size_t>(words) * sizeof(int32_t));
    to[words + 1] = options_.sep;
    out.offsets[b] = static_cast<int32_t>(at);
    out.lengths[b] = static_cast<int32_t>(words + kAround);
    before_.push_back(begin > documents_.offsets[document] ? documents_.ids[begin - 1] : -1);
    // [SEP] is told where the document ends there, not where a piece does.
    spans_.push_back(out.lengths[b] - (begin + words == documents_.offsets[document + 1] ? 0 : 1));
    if (out.borders) out.borders[b] = border_of(out.ids + at, out.lengths[b], options_.enders);
    const bool whole = words == documents_.length(document);
    const bool told = whole || options_.masking.sequences == 0;
    out.labels[b++] = told ? documents_.labels[static_cast<size_t>(document)] : -1;
    tokens = at + words + kAround;
  });
  if (!any) return false;
  // The other sequences are empty, so that every batch has the same number.
  for (int64_t i = b; i < options_.sequences; ++i)
    out.offsets[i] = static_cast<int32_t>(tokens), out.lengths[i] = 0, out.labels[i] = 0;
  if (out.borders) std::fill(out.borders + b, out.borders + options_.sequences, 0);
  out.offsets[options_.sequences] = static_cast<int32_t>(tokens);
  out.tokens = tokens;
  out.sequences = options_.sequences;
  fill_targets(options_.masking, epoch, batch, b, spans_.data(), out);
  if (out.vocabulary) order_rows(out.ids, tokens, out.vocabulary, out.order);
  return true;
}

void PieceStream::seek(int64_t batch) {
  CHECK(batch >= 0, "pieces: want a batch from 0 on, got {}", batch);
  epoch_ = 0, batch_ = 0, crowded_ = 0;
  cut();
  while (batch_ < batch)
    if (!pack([](int64_t, int64_t, int64_t, int64_t) {})) break;
}

}  // namespace glia

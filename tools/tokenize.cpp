// Text in, word pieces out:  ./tools/tokenize "some text"   ./tools/tokenize --file x.txt --format json
// Statistics of a data set:  ./tools/tokenize --stats --data data/ag_news
#include <algorithm>
#include <array>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include "data/datasets/dataset_cli.h"
#include "data/text/documents.h"
#include "engine/core/check.h"
#include "engine/core/command_line/program.h"
#include "engine/core/command_line/terminal.h"
#include "engine/core/file.h"
#include "engine/core/file_kind.h"
#include "tools/tool.h"

using namespace glia;

namespace {

struct Options {
  DatasetOptions data;
  std::set<std::string> given;
  std::vector<std::string> texts;
  std::string file, format = "plain";
  bool stats = false, decode = false, special = false;
};

void print_line(std::string_view text, const WordPiece& tokenizer, const Options& o, std::string& out) {
  const auto add = [&out]<class... A>(fmt::format_string<A...> f, A&&... a) {
    fmt::format_to(std::back_inserter(out), f, std::forward<A>(a)...);
  };
  if (o.format == "ids") {
    static thread_local std::vector<int32_t> ids;
    ids.clear();
    if (o.special) tokenizer.encode_sequence(text, o.data.max_length, ids);
    else tokenizer.encode(text, ids);
    for (size_t i = 0; i < ids.size(); ++i) add("{}{}", i ? " " : "", ids[i]);
    out += '\n';
    return;
  }
  const Vocabulary& vocabulary = tokenizer.vocabulary();
  std::vector<WordPiece::Piece> pieces = tokenizer.pieces(text);
  if (o.special) {
    const auto room = static_cast<size_t>(o.data.max_length) - 2;
    if (pieces.size() > room) pieces.resize(room);
    pieces.insert(pieces.begin(), {vocabulary.cls(), 0, 0});
    const auto end = static_cast<uint32_t>(text.size());
    pieces.push_back({vocabulary.sep(), end, end});
  }
  if (o.format == "json") {
    nlohmann::ordered_json line;
    line["text"] = text;
    line["tokens"] = nlohmann::json::array();
    line["ids"] = nlohmann::json::array();
    line["offsets"] = nlohmann::json::array();
    for (const WordPiece::Piece& p : pieces) {
      line["tokens"].push_back(vocabulary.token(p.id));
      line["ids"].push_back(p.id);
      line["offsets"].push_back({p.begin, p.end});
    }
    // Bytes that are no UTF-8 are shown as U+FFFD: JSON has no way to hold them.
    out += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    return;
  }
  for (const WordPiece::Piece& p : pieces)
    add("{:6}  {:>5}-{:<5}  {:20}  {}\n", p.id, p.begin, p.end, vocabulary.token(p.id),
        text.substr(p.begin, p.end - p.begin));
}

void tokenize_lines(std::string_view content, const WordPiece& tokenizer, const Options& o) {
  std::string out;
  const auto flush = [&] {
    std::cout.write(out.data(), static_cast<std::streamsize>(out.size()));
    if (!std::cout) fail_input("standard output: cannot write");
    out.clear();
  };
  for (size_t begin = 0; begin < content.size();) {
    size_t end = std::min(content.find('\n', begin), content.size());
    const std::string_view line = content.substr(begin, end - begin);
    if (o.decode) {
      std::vector<int32_t> ids;
      std::istringstream numbers{std::string(line)};
      for (int32_t id; numbers >> id;) ids.push_back(id);
      if (!numbers.eof()) fail_input("expected ids, found \"{}\"", line);
      const int64_t size = tokenizer.vocabulary().size();
      for (const int32_t id : ids)
        if (id < 0 || id >= size)
          fail_input("expected ids from 0 to {}, the vocabulary's last, found {}", size - 1, id);
      out += tokenizer.decode(ids.data(), ids.size(), !o.special) + "\n";
    } else {
      print_line(line, tokenizer, o, out);
    }
    begin = end + 1;
    if (out.size() > 1 << 20) flush();
  }
  flush();
}

// --- statistics -------------------------------------------------------------

void progress_bar(const char* what, int64_t done, int64_t of) {
  status_line(stderr, done == of ? "" : fmt::format("{}: {} of {} ({} %)", what, done, of, 100 * done / of));
}

void split_stats(const char* name, const TextSplit& split, const TextDataset& data, const WordPiece& tokenizer,
                 int64_t max_length) {
  const auto rows = static_cast<int64_t>(split.texts.size());
  if (rows == 0) return;
  std::vector<int64_t> lengths, per_class(data.class_names.size(), 0);
  std::vector<int32_t> ids;
  int64_t cut = 0, unknown = 0, pieces = 0, bytes = 0;
  std::chrono::duration<double> seconds{0};
  constexpr int64_t kStep = 1000;
  for (int64_t first = 0; first < rows; first += kStep) {
    const auto start = std::chrono::steady_clock::now();
    for (int64_t r = first; r < std::min(rows, first + kStep); ++r) {
      const std::string& text = split.texts[static_cast<size_t>(r)];
      ids.clear();
      tokenizer.encode(text, ids);
      const auto n = static_cast<int64_t>(ids.size());
      pieces += n, bytes += static_cast<int64_t>(text.size());
      unknown += std::count(ids.begin(), ids.end(), tokenizer.vocabulary().unk());
      cut += n + 2 > max_length;
      lengths.push_back(std::min(n + 2, max_length));
      ++per_class[static_cast<size_t>(split.labels[static_cast<size_t>(r)])];
    }
    seconds += std::chrono::steady_clock::now() - start;
    progress_bar(name, std::min(rows, first + kStep), rows);
  }
  std::sort(lengths.begin(), lengths.end());
  int64_t total = 0;
  for (const int64_t l : lengths) total += l;
  const auto share = [&](int64_t n, int64_t of) {
    return 100 * static_cast<double>(n) / static_cast<double>(std::max<int64_t>(of, 1));
  };
  const auto percentile = [&](double p) {
    return lengths[static_cast<size_t>(p * static_cast<double>(rows - 1) + 0.5)];
  };
  fmt::print("{}: {} rows, {:.1f} MB\n", name, rows, static_cast<double>(bytes) / 1e6);
  for (size_t c = 0; c < per_class.size(); ++c)
    fmt::print("  {:<20} {:>8}  {:5.1f} %\n", data.class_names[c], per_class[c], share(per_class[c], rows));
  fmt::print("  length: mean {:.2f}  min {}  p5 {}  p25 {}  p50 {}  p75 {}  p95 {}  p99 {}  max {}\n",
             static_cast<double>(total) / static_cast<double>(rows), lengths.front(), percentile(.05),
             percentile(.25), percentile(.5), percentile(.75), percentile(.95), percentile(.99), lengths.back());
  const auto full = std::count(lengths.begin(), lengths.end(), max_length);
  fmt::print("  {} long: {} rows ({:.2f} %), {} of them cut   [UNK]: {} of {} pieces ({:.4f} %)\n", max_length,
             full, share(full, rows), cut, unknown, pieces, share(unknown, pieces));
  fmt::print("  {:.1f} M pieces/s, {:.0f} MB/s on one core\n", static_cast<double>(pieces) / seconds.count() / 1e6,
             static_cast<double>(bytes) / seconds.count() / 1e6);
}

void print_stats(const Options& o) {
  DatasetOptions options = o.data;
  settle_data_options(options, o.given);
  const DatasetRow& row = find_dataset(dataset_name(options));
  BadRows bad(options.skip_bad_rows);
  const TextDataset data = row.load(options, bad);
  std::vector<std::string> notes = data.notes;
  const WordPiece tokenizer = tokenizer_for(options, data, notes);
  fmt::print("{}: {}\nvocabulary: {}, {} tokens\n", row.name, data.source, tokenizer.vocabulary().source(),
             tokenizer.vocabulary().size());
  for (const std::string& note : notes) fmt::print("{}\n", note);
  split_stats("train", data.train, data, tokenizer, options.max_length);
  split_stats("test", data.test, data, tokenizer, options.max_length);
  if (data.bayes_accuracy) fmt::print("best possible accuracy on test: {:.4f}\n", *data.bayes_accuracy);
  fmt::print("{}", bad.summary());
}

int run(const Options& o) {
  if (o.stats) {
    print_stats(o);
    return 0;
  }
  for (const std::string& flag : o.given)
    if (flag != "vocab" && flag != "data" && flag != "lowercase" && !(flag == "max-length" && o.special))
      fail_input("--{}: not read without {}", flag, flag == "max-length" ? "--special or --stats" : "--stats");
  const std::string vocab = find_vocabulary(o.data);
  if (vocab.empty())
    fail_input("data/ag_news/vocab.txt: no such file; type `{}` or say --vocab FILE", program("tools/fetch_data"));
  std::vector<std::string> notes;
  const WordPiece tokenizer = tokenizer_from(o.data, vocab, notes);
  for (const std::string& note : notes) fmt::print(stderr, "tokenize: {}\n", note);
  if (!o.file.empty()) {
    const std::string content = read_text(o.file);
    refuse_foreign(content, o.file, "text");
    if (content.empty()) fail_input("{}: expected text, found an empty file", o.file);
    tokenize_lines(content, tokenizer, o);
  } else if (!o.texts.empty()) {
    for (const std::string& text : o.texts) tokenize_lines(text, tokenizer, o);
  } else {
    tokenize_lines(read_file("/dev/stdin"), tokenizer, o);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app{"Splits text into WordPiece tokens, or tells the statistics of a data set."};
  app.add_option("text", o.texts, "texts; without one, and without --file, lines of standard input");
  app.add_option("--file", o.file, "a file, line by line, .xz and .gz too");
  app.add_option("--format", o.format,
                 "plain (one piece a line), ids (one line of ids a text), json (one object a text)")
      ->check(CLI::IsMember({"plain", "ids", "json"}))
      ->capture_default_str();
  app.add_flag("--special", o.special, "with [CLS] and [SEP], cut at --max-length");
  app.add_flag("--decode", o.decode, "ids in, text out");
  app.add_flag("--stats", o.stats,
               "statistics of the data set: classes, lengths, share cut, unknown pieces, speed");
  add_dataset_flags(app, o.data, o.given, DataFlags::kTokens);
  return run_tool("tokenize", app, argc, argv, [&] { return run(o); });
}

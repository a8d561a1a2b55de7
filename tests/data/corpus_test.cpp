// Text for pretraining: what is read from plain and packed files, what stays out, and what is an error.
#include "data/datasets/corpus.h"

#include <lzma.h>
#include <zlib.h>

#include <algorithm>
#include <map>
#include <set>

#include "data/text/documents.h"
#include "data/text/word_runs.h"
#include "engine/core/file.h"
#include "tests/test.h"

namespace fs = std::filesystem;

namespace glia::test {
namespace {

std::string xz(const std::string& text) {
  std::string packed(text.size() + 1024, 0);
  size_t size = 0;
  REQUIRE(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const uint8_t*>(text.data()),
                                  text.size(), reinterpret_cast<uint8_t*>(packed.data()), &size,
                                  packed.size()) == LZMA_OK);
  packed.resize(size);
  return packed;
}

std::string gzip(const std::string& text) {
  z_stream s{};
  REQUIRE(deflateInit2(&s, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string packed(text.size() + 1024, 0);
  s.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  s.avail_in = static_cast<uInt>(text.size());
  s.next_out = reinterpret_cast<Bytef*>(packed.data());
  s.avail_out = static_cast<uInt>(packed.size());
  REQUIRE(deflate(&s, Z_FINISH) == Z_STREAM_END);
  packed.resize(packed.size() - s.avail_out);
  deflateEnd(&s);
  return packed;
}

struct Folder {
  fs::path path = temporary_path("corpus");
  Folder() { fs::remove_all(path), fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  std::string write(const std::string& name, const std::string& text) const {
    write_file_atomic(path / name, text);
    return (path / name).string();
  }
};

// Sentences that share no run of words with each other.
std::string sentence(int64_t i) {
  std::string text;
  for (int64_t w = 0; w < 12; ++w) text += fmt::format("{}w{}x{}", w ? " " : "", i, w);
  return text;
}

// A data set of 40 rows, 4 of which are tested on, and a corpus of `lines`.
struct Made {
  Folder folder;
  CorpusOptions options;
  Made() {
    std::string train = "label,text\n", test = train;
    for (int64_t i = 0; i < 40; ++i) train += fmt::format("{},train {}\n", i % 2, sentence(1000 + i));
    for (int64_t i = 0; i < 4; ++i) test += fmt::format("{},\"Test, {}\"\n", i % 2, sentence(2000 + i));
    options.data.dataset = "csv";
    options.data.csv_train = folder.write("train.csv", train),
    options.data.csv_test = folder.write("test.csv", test);
    options.data.cache = "";
    options.data.validation_fraction = 0.2;
    options.data.vocab_size = 400;
    options.held_out = 0.1;
  }
  void corpus(const std::string& text) { options.files = folder.write("lines.txt", text); }
};

std::string lines(int64_t n) {
  std::string text;
  for (int64_t i = 0; i < n; ++i) text += sentence(i) + "\n";
  return text;
}

TEST_CASE("documents: a line each, without blanks; plain, xz and gzip are the same, in several streams too") {
  const Folder folder;
  const std::string text = "\xEF\xBB\xBF one two \r\n\n \t\nthree\n", more(3 << 20, 'x');
  for (const std::string& whole : {text, text + more}) {
    const size_t half = whole.size() / 2;
    const std::string a = whole.substr(0, half), b = whole.substr(half);
    for (const auto& [name, bytes] :
         std::vector<std::pair<std::string, std::string>>{{"t.txt", whole},
                                                          {"t.txt.xz", xz(whole)},
                                                          {"t.gz", gzip(whole)},
                                                          {"no_such_ending", xz(a) + xz(b)},
                                                          {"u.gz", gzip(a) + gzip(b)},
                                                          {"v.gz", gzip(whole) + std::string(512, '\0')}}) {
      INFO(name);
      REQUIRE(read_text(folder.write(name, bytes)) == whole);
    }
  }
  EXPECT(documents_of(text) == std::vector<std::string_view>{"one two", "three"});
  EXPECT(documents_of("").empty());
  EXPECT(documents_of("last line").size() == 1);
  EXPECT(documents_of("one\r\rtwo \r three\r") == std::vector<std::string_view>{"one", "two", "three"});
}

TEST_CASE("documents: cut and damaged files, missing ones and folders without text are errors of one line") {
  const Folder folder;
  const std::string text = lines(500), packed = xz(text), zipped = gzip(text);
  const auto error = [&](const std::string& bytes) {
    return error_of([&] { read_text(folder.write("f", bytes)); });
  };
  for (const size_t left : {packed.size() - 1, packed.size() / 2, size_t{12}})
    EXPECT(contains(error(packed.substr(0, left)), "the xz data end too early: the file is cut"));
  for (const size_t left : {zipped.size() - 1, zipped.size() / 2})
    EXPECT(contains(error(zipped.substr(0, left)), "the gzip data end too early: the file is cut"));
  std::string damaged = packed;
  damaged[damaged.size() / 2] ^= 1;
  EXPECT(contains(error(damaged), "expected whole xz data, got damaged ones"));
  damaged = zipped;
  damaged[damaged.size() / 2] ^= 0x55;
  EXPECT(contains(error(damaged), "gzip"));
  EXPECT(
      contains(error_of([&] { text_files((folder.path / "none").string()); }), "there is no such file or folder"));
  fs::create_directory(folder.path / "empty");
  EXPECT(contains(error_of([&] { text_files((folder.path / "empty").string()); }), "found none"));
  folder.write("empty/b.txt.gz", gzip("b")), folder.write("empty/a.txt", "a"), folder.write("empty/c.csv", "c");
  const std::vector<fs::path> files = text_files((folder.path / "empty").string());
  REQUIRE(files.size() == 2);
  EXPECT(files[0].filename() == "a.txt");
}

TEST_CASE("documents: what is no text is no corpus; where bytes are the tokens it may be") {
  const auto error = [](std::string_view text) { return error_of([&] { require_text(text, "c.txt"); }); };
  EXPECT(error("Größe\n東京\n") == "");
  EXPECT(error("") == "");
  EXPECT(error("a\nb caf\xE9 c\n") == "c.txt:2:6: expected UTF-8, found byte 0xE9");
  EXPECT(error(std::string_view("a\0b", 3)) == "c.txt:1:2: expected text, found byte 0x00");
  EXPECT(error("\xE9") == "c.txt:1:1: expected UTF-8, found byte 0xE9");
  EXPECT(contains(error("PK\x03\x04"), "c.txt: expected text, found a zip archive"));
  EXPECT(contains(error("<html>"), "c.txt: expected text, found a web page"));
  Made made;
  made.corpus(lines(80) + "caf\xE9\n");
  EXPECT(contains(error_of([&] { load_corpus(made.options); }), ":81:4: expected UTF-8, found byte 0xE9"));
}

TEST_CASE("word runs: shared whatever stands between the words, and only where all of them are") {
  WordRuns runs(8);
  runs.add("One two, three four -- five SIX seven's 8 nine");
  runs.add("too short a text");
  runs.settle();
  EXPECT(runs.count() == 3);  // "seven's" are two words
  EXPECT(runs.shared_by("and one two three four five six seven s, they say"));
  EXPECT(!runs.shared_by("one two three four five six seven"));
  EXPECT(!runs.shared_by("one two three four five six and seven s 8 nine"));
  EXPECT(!runs.shared_by("too short a text"));
  EXPECT(!runs.shared_by(""));
}

TEST_CASE("word runs: words of any script, however quotation marks, dashes, capitals and accents are written") {
  const auto shared = [](const std::string& tested, const std::string& text) {
    WordRuns runs(8);
    runs.add(tested), runs.settle();
    return runs.shared_by(text);
  };
  EXPECT(shared("one \"two\" three - four's five six ÉTÉ eight", "One “two” three—four’s five six été… eight!"));
  EXPECT(shared("a b c d e f g na\xC3\xAFve", "A B C D E F G nai\xCC\x88ve"));  // the accent apart
  EXPECT(
      shared("a b c\xC2\xA0"
             "d e f g h",
             "a b c d e f g h"));  // no-break space
  EXPECT(shared("один два три четыре пять шесть семь восемь", "ОДИН, ДВА: три «четыре» пять шесть семь Восемь"));
  EXPECT(!shared("один два три четыре пять шесть семь восемь", "один два три четыре пять шесть семь девять"));
  EXPECT(shared("新华社北京十一月二日电。", "据新华社北京，十一月报道"));
  EXPECT(!shared("新华社北京十一月二日电。", "据新华社报道，北京十一月"));
  const std::string stem(300, 'x');  // words that differ late are two
  EXPECT(!shared("a b c d e f g " + stem + "y", "a b c d e f g " + stem + "z"));
}

TEST_CASE("corpus: documents that share words with a test row stay out and are counted, as validation rows are") {
  Made made;
  const std::string shared = "as " + sentence(2001) + " they say\n",
                    part = sentence(2002).substr(0, sentence(2002).find(" w2002x7")) + "\n";
  made.corpus(lines(80) + shared + part + sentence(2003) + "\n");
  const Corpus corpus = load_corpus(made.options);
  REQUIRE(corpus.sources.size() == 2);
  EXPECT(corpus.test_rows == 4);
  CorpusOptions all = made.options;
  all.overlap_words = 0;
  EXPECT(load_corpus(all).test_rows == 0);  // so many were compared
  EXPECT(corpus.sources[0].documents == 83);
  EXPECT(corpus.sources[0].overlapping == 2);  // seven words are no run of eight
  EXPECT(corpus.sources[1].name == "csv_train");
  EXPECT(corpus.sources[1].documents == 40);
  EXPECT(corpus.sources[1].validation == 8);
  EXPECT(corpus.sources[1].overlapping == 0);
  const int64_t kept = corpus.training.size() + corpus.held_out.size();
  int64_t guards = 0, held_out = 0;
  for (const Corpus::Source& s : corpus.sources) guards += s.guards, held_out += s.held_out;
  EXPECT(kept + guards == 81 + 32);
  EXPECT(corpus.held_out.size() == held_out);
  EXPECT(held_out >= 2 * 4);

  // The rows themselves: a text is in one part only, and none of the validation rows of a run on this data set is in any.
  std::set<std::string> seen;
  for (const TokenSplit* part : {&corpus.training, &corpus.held_out})
    for (int64_t d = 0; d < part->size(); ++d)
      EXPECT(seen.insert(corpus.tokenizer->decode(part->ids.data() + part->offsets[d],
                                                  static_cast<size_t>(part->length(d))))
                 .second);
  DatasetOptions later = made.options.data;
  const Dataset data = load_dataset(later);
  REQUIRE(data.validation.size() == 8);
  for (int64_t row = 0; row < data.validation.size(); ++row)
    EXPECT(!seen.contains(data.tokenizer->decode(data.validation.ids.data() + data.validation.offsets[row] + 1,
                                                 static_cast<size_t>(data.validation.length(row)) - 2)));

  made.options.overlap_words = 0;
  EXPECT(load_corpus(made.options).sources[0].overlapping == 0);
  made.options.overlap_words = 8, made.options.training_texts = false;
  EXPECT(load_corpus(made.options).sources.size() == 1);
}

TEST_CASE("corpus: neighbours are held out together, with others between them and what is trained on") {
  Made made;
  made.options.training_texts = false, made.options.held_out = 0.05;
  made.corpus(lines(2000));
  const Corpus corpus = load_corpus(made.options);
  // The document's number is in its text.
  const auto number = [&](const TokenSplit& part, int64_t d) {
    const std::string text =
        corpus.tokenizer->decode(part.ids.data() + part.offsets[d], static_cast<size_t>(part.length(d)));
    return std::stoll(text.substr(1));
  };
  std::set<int64_t> held;
  for (int64_t d = 0; d < corpus.held_out.size(); ++d) held.insert(number(corpus.held_out, d));
  EXPECT(held.size() >= 100);
  EXPECT(held.size() <= 120);
  for (int64_t d = 0; d < corpus.training.size(); ++d)
    for (int64_t beside = -3; beside <= 3; ++beside) REQUIRE(!held.contains(number(corpus.training, d) + beside));
  made.options.data.split_seed = 2;
  std::set<int64_t> other;
  const Corpus again = load_corpus(made.options);
  for (int64_t d = 0; d < again.held_out.size(); ++d) other.insert(number(again.held_out, d));
  EXPECT(other != held);
}

TEST_CASE("corpus: the cache gives the same text, and is made anew when a file changes") {
  Made made;
  made.corpus(lines(60));
  made.options.data.cache = (made.folder.path / "cache").string();
  const Corpus first = load_corpus(made.options), second = load_corpus(made.options);
  EXPECT(!first.from_cache);
  EXPECT(second.from_cache);
  for (const auto& [a, b] :
       {std::pair{&first.training, &second.training}, std::pair{&first.held_out, &second.held_out}}) {
    EXPECT(a->ids == b->ids);
    EXPECT(a->offsets == b->offsets);
    EXPECT(a->labels == b->labels);
  }
  EXPECT(first.vocabulary().hash() == second.vocabulary().hash());
  EXPECT(second.sources[1].validation == 8);
  EXPECT(second.test_rows == 4);
  made.corpus(lines(61));
  EXPECT(!load_corpus(made.options).from_cache);
}

TEST_CASE("corpus: with topics the same text, and documents know their class, those of other sources none") {
  Made made;
  // Rows that are left out, so that classes must move with their texts.
  made.corpus(lines(80) + sentence(2001) + "\n");
  made.options.max_documents = 70;
  const Corpus plain = load_corpus(made.options);
  EXPECT(plain.class_names.empty());
  EXPECT(plain.classes() == 2);
  made.options.topics = true;
  made.options.data.cache = (made.folder.path / "cache").string();
  for (const bool cached : {false, true}) {
    const Corpus corpus = load_corpus(made.options);
    EXPECT(corpus.from_cache == cached);
    EXPECT(corpus.class_names == std::vector<std::string>{"0", "1"});
    EXPECT(corpus.classes() == 2);
    REQUIRE(corpus.sources.size() == 2);
    EXPECT(corpus.sources[1].documents == 40);
    std::map<int32_t, int64_t> times;
    for (const auto& [part, other] :
         {std::pair{&corpus.training, &plain.training}, {&corpus.held_out, &plain.held_out}}) {
      EXPECT(part->ids == other->ids);
      EXPECT(part->offsets == other->offsets);
      for (int64_t d = 0; d < part->size(); ++d) {
        const std::string text =
            corpus.tokenizer->decode(part->ids.data() + part->offsets[d], static_cast<size_t>(part->length(d)));
        const int32_t label = part->labels[static_cast<size_t>(d)];
        const bool row = text.starts_with("train w");
        EXPECT(label == (row ? std::stoi(text.substr(7)) % 2 : -1));
        ++times[label];
      }
    }
    EXPECT(times[-1] > 40);
    EXPECT(times[0] > 8);
    EXPECT(times[1] > 8);
  }
  made.options.topics = false;  // with a key of its own in the cache
  EXPECT(!load_corpus(made.options).from_cache);
  made.options.topics = true, made.options.training_texts = false;
  EXPECT(
      contains(error_of([&] { load_corpus(made.options); }), "topics are those of the data set's training texts"));
}

TEST_CASE("corpus: one text twice, packed beside itself, would be trained on and held out, and is an error") {
  Made made;
  const std::string text = lines(100), plain = made.folder.write("a.txt", text);
  made.folder.write("a.txt.xz", xz(text));
  made.options.files = made.folder.path.string();
  EXPECT(contains(error_of([&] { load_corpus(made.options); }), "a.txt.xz: the same text as " + plain));
  made.options.files = plain + "," + plain;
  EXPECT(contains(error_of([&] { load_corpus(made.options); }), "a.txt: the same text as"));
  // Neither lines' ends, a byte order mark nor blank lines make another text of it.
  std::string crlf = "\xEF\xBB\xBF\r\n";
  for (const char c : text) crlf += c == '\n' ? "\r\n" : std::string(1, c);
  made.options.files = plain + "," + made.folder.write("b.txt", crlf);
  EXPECT(contains(error_of([&] { load_corpus(made.options); }), "b.txt: the same text as " + plain));
  made.options.files = plain;
  EXPECT(load_corpus(made.options).training.size() > 80);
}

bool noted(const Corpus& corpus, const std::string& text) {
  return std::ranges::any_of(corpus.notes, [&](const std::string& note) { return contains(note, text); });
}

TEST_CASE(
    "corpus: what is not as one may think is told: files not read, pieces unknown, documents held out and kept") {
  Made made;
  made.corpus(lines(100));
  EXPECT(load_corpus(made.options).notes.empty());
  const std::string folder = (made.folder.path / "texts").string();
  fs::create_directories(folder + "/more");
  made.folder.write("texts/a.txt", lines(100)), made.folder.write("texts/b.TXT", lines(3));
  made.folder.write("texts/.hidden", ""), made.folder.write("texts/more/c.txt", lines(7));
  made.options.files = folder;
  EXPECT(
      noted(load_corpus(made.options), "texts: only its *.txt, *.txt.xz and *.txt.gz are read, not b.TXT, more/"));
  fs::remove(folder + "/a.txt");
  EXPECT(contains(error_of([&] { load_corpus(made.options); }), "found none of them, but b.TXT, more/"));

  made.corpus(lines(100) + lines(100));
  const Corpus twice = load_corpus(made.options);
  REQUIRE(noted(twice, "held-out documents stand among the training ones too"));
  EXPECT(noted(twice, fmt::format("of the {} held-out documents", twice.held_out.size())));

  made.corpus(lines(100));
  made.options.data.vocab = made.folder.write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nother\n");
  EXPECT(noted(load_corpus(made.options), "100.0 % of the training pieces are [UNK]"));
}

TEST_CASE("corpus: of chosen topics the training rows alone, without the validation rows that a run of them has") {
  Made made;
  std::string rows = "label,text\n";
  for (int64_t i = 0; i < 60; ++i) rows += fmt::format("{},train {}\n", i % 3, sentence(1000 + i));
  made.options.data.csv_train = made.folder.write("three.csv", rows);
  made.options.data.only_topics = "2,0";
  made.options.data.vocab = "bytes", made.options.data.max_length = 512;
  made.options.topics = true, made.options.held_out = 0.05;
  const Corpus corpus = load_corpus(made.options);
  EXPECT(corpus.class_names == std::vector<std::string>{"2", "0"});
  EXPECT(corpus.sources[0].documents == 40);
  EXPECT(corpus.sources[0].validation == 8);
  const auto texts_of = [](const TokenSplit& split, const WordPiece& tokenizer) {
    std::set<std::string> texts;
    for (int64_t row = 0; row < split.size(); ++row)
      texts.insert(tokenizer.decode(split.ids.data() + split.offsets[static_cast<size_t>(row)],
                                    static_cast<size_t>(split.length(row))));
    return texts;
  };
  const Dataset run = load_dataset(made.options.data);
  const std::set<std::string> validation = texts_of(run.validation, *run.tokenizer);
  const std::set<std::string> training = texts_of(run.train, *run.tokenizer);
  REQUIRE(validation.size() == 8);
  for (const TokenSplit* part : {&corpus.training, &corpus.held_out})
    for (const std::string& text : texts_of(*part, *corpus.tokenizer)) {
      EXPECT(!validation.contains(text));
      EXPECT(training.contains(text));
    }
  made.options.data.only_topics = "2,5";
  EXPECT(contains(error_of([&] { load_corpus(made.options); }), "--only-topics: expected some of"));
}

TEST_CASE("corpus: rows that are skipped are listed each time, and are errors again without the flag") {
  Made made;
  made.corpus(lines(80));
  made.options.data.cache = (made.folder.path / "cache").string();
  const std::string rows = read_file(made.options.data.csv_train);
  made.folder.write("train.csv", rows + "1,2,3\n");
  made.options.data.skip_bad_rows = true;
  for (int i = 0; i < 2; ++i)
    EXPECT(noted(load_corpus(made.options), "train.csv:42:1: expected 2 fields, found 3"));
  made.options.data.skip_bad_rows = false;
  EXPECT(contains(error_of([&] { load_corpus(made.options); }), "train.csv:42:1: expected 2 fields, found 3"));
  // What else was found out about the data set's files, from the cache too.
  made.folder.write("train.csv", rows + "\n");
  for (const bool from_cache : {false, true}) {
    const Corpus corpus = load_corpus(made.options);
    EXPECT(corpus.from_cache == from_cache);
    EXPECT(noted(corpus, "blank"));
  }
}

TEST_CASE("corpus: no text, too little of it") {
  Made made;
  made.corpus("\n \n");
  EXPECT(contains(error_of([&] { load_corpus(made.options); }), "expected text, a document a line; found none"));
  made.options.training_texts = false;
  made.corpus(sentence(1));
  EXPECT(contains(error_of([&] { load_corpus(made.options); }), "are too few to train on some and hold"));
  made.options.files = "";
  EXPECT(contains(error_of([&] { load_corpus(made.options); }), "got neither"));
}

}  // namespace
}  // namespace glia::test

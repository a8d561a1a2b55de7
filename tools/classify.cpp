// ./tools/classify results/seed0/dense news.txt — the label of each line and how sure the model is; --format csv|json.
// A CSV file's rows: ./tools/classify RUN rows.csv --csv-text title,body
#include <algorithm>
#include <iostream>

#include "data/datasets/dataset_cli.h"
#include "data/text/csv_table.h"
#include "engine/core/file.h"
#include "engine/core/file_kind.h"
#include "experiments/records/classifier.h"
#include "experiments/training/schedule.h"
#include "tools/tool.h"

namespace {

using namespace glia;

struct Arguments {
  std::string run, file, input = "auto", format = "text", vocabulary, device = "cpu", precision;
  int64_t batch = 64;
  bool probabilities = false, routing = false;
  DatasetOptions csv;
  std::set<std::string> given;
};

constexpr size_t kChunk = 4096;  // texts that are read, classified and printed together

std::string shown(const Arguments& a) { return a.file == "-" ? "standard input" : a.file; }

bool reads_csv(const Arguments& a) {
  if (a.input != "auto") return a.input == "csv";
  return a.file.ends_with(".csv") || a.file.ends_with(".tsv") || !a.given.empty();
}

std::vector<std::string> lines_of(const std::string& content) {
  std::vector<std::string> texts;
  for (size_t begin = 0; begin < content.size();) {
    const size_t end = std::min(content.find('\n', begin), content.size());
    size_t stop = end;
    if (stop > begin && content[stop - 1] == '\r') --stop;
    texts.emplace_back(content, begin, stop - begin);
    begin = end + 1;
  }
  return texts;
}

std::vector<std::string> csv_texts(const Arguments& a, const std::string& content) {
  BadRows bad(a.csv.skip_bad_rows);
  CsvTableFormat format;
  format.separator = separator_of(a.csv.csv_separator);
  format.wanted = comma_list(a.csv.csv_text);
  format.is_header = [&](const auto&) { return a.csv.csv_header; };
  CsvTable table(shown(a), content, format, bad);
  if (table.empty()) fail_input("{}: expected rows, found an empty file", shown(a));
  std::vector<size_t> columns;
  for (const std::string& name : format.wanted) columns.push_back(table.column(name));
  std::vector<std::string> texts;
  CsvRow row;
  while (table.next(row)) {
    std::string text;
    for (const size_t column : columns)
      text += (column == columns.front() ? "" : " ") + std::string(row.fields[column]);
    texts.push_back(trimmed(text));
  }
  for (const std::string& note : table.notes()) fmt::print(stderr, "classify: {}\n", note);
  fmt::print(stderr, "{}", bad.summary());
  return texts;
}

std::string quoted(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + '"';
}

// "3:0.612 1:0.388": where [CLS] went.
std::string experts_text(const Prediction::Layer& layer) {
  std::string text;
  for (const auto& [expert, gate] : layer.cls)
    text += fmt::format("{}{}:{:.3f}", text.empty() ? "" : " ", expert, gate);
  return text;
}

class Printer {
 public:
  Printer(const Arguments& a, const std::vector<std::string>& labels) : a_(a), labels_(labels) {}

  void print(std::span<const std::string> texts, const std::vector<Prediction>& predictions) {
    std::string out;
    for (size_t i = 0; i < predictions.size(); ++i) {
      if (a_.format == "csv" && rows_ == 0) out += header(predictions[i]);
      ++rows_;
      out += a_.format == "json"  ? json(texts[i], predictions[i])
             : a_.format == "csv" ? csv(predictions[i])
                                  : plain(predictions[i]);
    }
    std::cout.write(out.data(), static_cast<std::streamsize>(out.size()));
    std::cout.flush();
    if (!std::cout) fail_input("standard output: cannot write");
  }

 private:
  const std::string& label(const Prediction& p) const { return labels_[static_cast<size_t>(p.label)]; }
  static double probability(const Prediction& p) { return p.probabilities[static_cast<size_t>(p.label)]; }

  std::string plain(const Prediction& p) const {
    std::string line = fmt::format("{}\t{:.4f}", label(p), probability(p));
    if (a_.probabilities)
      for (size_t c = 0; c < labels_.size(); ++c)
        line += fmt::format("\t{}={:.4f}", labels_[c], p.probabilities[c]);
    for (size_t l = 0; l < p.routing.size(); ++l)
      line += fmt::format("\tlayer{} {}", l + 1, experts_text(p.routing[l]));
    return line + "\n";
  }

  std::string header(const Prediction& p) const {
    std::string line = "label,probability";
    if (a_.probabilities)
      for (const std::string& name : labels_) line += "," + quoted("p_" + name);
    for (size_t l = 0; l < p.routing.size(); ++l) line += fmt::format(",cls_experts_layer{}", l + 1);
    return line + "\n";
  }

  std::string csv(const Prediction& p) const {
    std::string line = fmt::format("{},{:.6f}", quoted(label(p)), probability(p));
    if (a_.probabilities)
      for (const double value : p.probabilities) line += fmt::format(",{:.6f}", value);
    for (const Prediction::Layer& layer : p.routing) line += "," + experts_text(layer);
    return line + "\n";
  }

  std::string json(const std::string& text, const Prediction& p) const {
    results::Json line = {{"text", text}, {"label", label(p)}, {"probability", probability(p)}};
    if (p.truncated) line["truncated"] = true;
    if (a_.probabilities)
      for (size_t c = 0; c < labels_.size(); ++c) line["probabilities"][labels_[c]] = p.probabilities[c];
    for (const Prediction::Layer& layer : p.routing) {
      results::Json one = {{"cls", results::Json::array()}, {"share", layer.share}};
      for (const auto& [expert, gate] : layer.cls) one["cls"].push_back({{"expert", expert}, {"gate", gate}});
      line["routing"].push_back(one);
    }
    // Bytes that are no UTF-8 are shown as U+FFFD: JSON has no way to hold them.
    return line.dump(-1, ' ', false, results::Json::error_handler_t::replace) + "\n";
  }

  const Arguments& a_;
  const std::vector<std::string>& labels_;
  int64_t rows_ = 0;
};

int run(const Arguments& a) {
  const results::Run saved = results::read_run(a.run);
  const std::string content = read_file(a.file == "-" ? "/dev/stdin" : a.file);
  if (!reads_csv(a)) refuse_foreign(content, shown(a), "a text a line");
  const std::vector<std::string> texts = reads_csv(a) ? csv_texts(a, content) : lines_of(content);
  if (texts.empty()) fail_input("{}: expected text, found none", shown(a));
  Context context(Device::parse(a.device));
  TextClassifier classifier(context, saved, a.vocabulary, saved_precision(saved, context.device(), a.precision),
                            a.batch);
  Printer printer(a, classifier.labels());
  for (size_t first = 0; first < texts.size(); first += kChunk) {
    const std::span<const std::string> chunk(texts.data() + first, std::min(kChunk, texts.size() - first));
    printer.print(chunk, classifier.classify(chunk, a.routing));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  settle_threads(argv);
  Arguments a;
  CLI::App app("Classifies texts with a trained model: one row of output for each text, in their order.");
  app.add_option("run", a.run, "folder of a finished run, such as results/seed0/astrocyte-hierarchical")
      ->required();
  app.add_option("file", a.file, "texts, one a line, or a CSV file; - is standard input")->required();
  app.add_option("--input", a.input, "lines, csv, or auto: csv for *.csv, *.tsv and where a --csv flag is given")
      ->check(CLI::IsMember({"auto", "lines", "csv"}));
  app.add_option("--format", a.format, "text (label, tab, probability), csv, or json (an object a line) [text]")
      ->check(CLI::IsMember({"text", "csv", "json"}));
  app.add_flag("--proba", a.probabilities, "the probabilities of all classes too");
  app.add_flag("--routing", a.routing,
               "the experts of [CLS] too, layer by layer; with json the whole text's shares");
  app.add_option("--batch", a.batch, "texts that go through the model together [64]")->check(CLI::Range(1, 65536));
  app.add_option("--vocab", a.vocabulary, "the vocabulary (default: vocab.txt of the result folder)");
  app.add_option("--device", a.device, "cpu (default), cuda or cuda:N");
  app.add_option("--precision", a.precision, "default: float32 on a CPU, the run's own on a GPU")
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  add_dataset_flags(app, a.csv, a.given, DataFlags::kCsv);
  return run_tool("classify", app, argc, argv, [&] { return run(a); });
}

#include "experiments/records/predictions.h"

#include <charconv>
#include <cmath>
#include <filesystem>

#include "engine/core/check.h"
#include "engine/core/file.h"

namespace glia::results {
namespace {

constexpr const char* kHeader = "label,predicted\n";

std::string path_of(const std::string& folder) { return folder + "/predictions.csv"; }

}  // namespace

double Predictions::accuracy() const {
  double right = 0;
  for (size_t i = 0; i < labels.size(); ++i) right += predicted[i] == labels[i];
  return labels.empty() ? std::nan("") : right / double(labels.size());
}

std::vector<double> Predictions::class_accuracy(int classes) const {
  std::vector<double> right(size_t(classes), 0.0), rows(size_t(classes), 0.0);
  for (size_t i = 0; i < labels.size(); ++i) {
    rows[size_t(labels[i])] += 1;
    right[size_t(labels[i])] += predicted[i] == labels[i];
  }
  for (size_t c = 0; c < right.size(); ++c) right[c] = rows[c] > 0 ? right[c] / rows[c] : std::nan("");
  return right;
}

void write_predictions(const std::string& folder, const Predictions& p) {
  std::string text = kHeader;
  for (size_t i = 0; i < p.labels.size(); ++i) text += fmt::format("{},{}\n", p.labels[i], p.predicted[i]);
  write_file_atomic(path_of(folder), text);
}

std::optional<Predictions> read_predictions(const std::string& folder) {
  const std::string path = path_of(folder);
  if (!std::filesystem::exists(path)) return {};
  const std::string text = read_file(path);
  if (!text.starts_with(kHeader)) fail_input("{}: expected the header label,predicted", path);
  Predictions p;
  const char *at = text.data() + std::string_view(kHeader).size(), *end = text.data() + text.size();
  for (int64_t line = 2; at < end; ++line) {
    int32_t label = -1, predicted = -1;
    const auto first = std::from_chars(at, end, label);
    const bool comma = first.ec == std::errc() && first.ptr < end && *first.ptr == ',';
    const auto second = comma ? std::from_chars(first.ptr + 1, end, predicted) : first;
    if (!comma || second.ec != std::errc() || second.ptr >= end || *second.ptr != '\n' || label < 0 ||
        predicted < 0)
      fail_input("{}:{}: expected two numbers of topics, \"label,predicted\"", path, line);
    p.labels.push_back(label), p.predicted.push_back(predicted);
    at = second.ptr + 1;
  }
  return p;
}

}  // namespace glia::results

// TensorBoard event files, written without TensorFlow: length-framed records with masked CRC-32C, holding protobuf
// messages (tensorflow/core/util/event.proto, framework/summary.proto) encoded by hand. Scalars and histograms.
#pragma once
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/records/results.h"

namespace glia::results {

// What TensorBoard's HPARAMS page shows of a run. Runs of one group are seeds of each other: their metrics are averaged.
struct HyperParameters {
  std::string group;
  Json values = Json::object();  // flat: numbers, texts, switches
};
// The configuration as a person would compare it: what it is, its model's shape, training, protocol.
HyperParameters hyperparameters(const RunConfig& config);

class TensorBoardWriter {
 public:
  // <folder>/events.out.tfevents.glia. Keeps the events with step <= resume_step of an earlier attempt (0: none)
  // and drops the rest and a half-written end, as MetricsLog does. Wall times (seconds since the epoch) are the
  // caller's: with the same ones a resumed run leaves the same bytes.
  TensorBoardWriter(const std::string& folder, double wall_time, int64_t resume_step = 0,
                    const HyperParameters& parameters = {});
  ~TensorBoardWriter();
  TensorBoardWriter(const TensorBoardWriter&) = delete;
  TensorBoardWriter& operator=(const TensorBoardWriter&) = delete;

  void set_wall_time(double seconds) { wall_time_ = seconds; }  // of the events from here on

  void scalar(const std::string& tag, int64_t step, double value);
  // Distribution of the values in TensorBoard's usual buckets (a factor of 1.1 apart). Values that are not finite
  // are left out.
  void histogram(const std::string& tag, int64_t step, const std::vector<double>& values);
  // One bucket an index, [i − ½, i + ½), as high as its weight: the load of expert i is read off at i.
  void bars(const std::string& tag, int64_t step, const std::vector<double>& weights);

  // What metrics.jsonl has: train/<name> of each named value of a step, <split>/<name> of an evaluation,
  // layer<l>/<name> of each logged metric of a layer; vectors (loads) as bars.
  void add(const TrainPoint& point);
  void add(const EvalPoint& point);

  void flush();

 private:
  void event(int64_t step, const std::string& summary);

  std::string path_;
  std::FILE* file_ = nullptr;
  double wall_time_;
};

uint32_t crc32c(std::string_view bytes);  // Castagnoli, reflected polynomial 0x82f63b78

}  // namespace glia::results

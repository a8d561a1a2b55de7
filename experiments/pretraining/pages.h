// What pretraining tells a person and other programs: the text that was read, the record, the page of the weights, dumps for peers.
#pragma once

#include "experiments/pretraining/run.h"
#include "experiments/records/results.h"
#include "experiments/training/training.h"

namespace glia {

// Sources with what was left out of each and why, and the sizes of both parts.
results::Json text_record(const PretrainOptions& options, const Corpus& corpus);
void print_text(const Corpus& corpus, double seconds, std::FILE* out);
// Of all ids and document borders of both parts: a run is resumed on the same text only.
uint64_t text_fingerprint(const Corpus& corpus);

// The configuration that the weights' config.json keeps under "glia", as a run's.
results::RunConfig saved_config(const PretrainOptions& options, const Corpus& corpus, const RunModel& model);

// README.md of a dense model; a mixture's page comes with its export.
void write_pages(const PretrainOptions& options, const Corpus& corpus, const RunModel& model, const ClockPlan& plan,
                 const std::string& result, const std::string& folder);

// For another program that is to read the same text, split and held-out masks: dump.json says what lies in
// tokens.u16 (or .i32 where ids are larger); training.i64 and held_out.i64, where each document begins among them, and the end; batches.i32,
// for each held-out batch T, B, M, its ids [T], offsets [B + 1], masked rows [M] and what stood there [M].
void dump_text(const PretrainOptions& options, const Corpus& corpus, const std::string& folder, std::FILE* out);

}  // namespace glia

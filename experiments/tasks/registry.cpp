#include "experiments/tasks/task.h"

namespace glia {

std::unique_ptr<TaskMeter> make_classification_meter(Context&, const BertConfig&, int64_t);
std::unique_ptr<TaskMeter> make_word_meter(Context&, const BertConfig&, int64_t);
std::unique_ptr<TaskMeter> make_next_word_meter(Context&, const BertConfig&, int64_t);

namespace {
constexpr TaskRow kTasks[] = {
    {"classification", "the topic of a text, from its first row", make_classification_head,
     TaskRow::Targets::kLabels, "accuracy", true, make_classification_meter},
    {"masked_lm", "masked word pieces, each from its own row", make_masked_lm_head, TaskRow::Targets::kMaskedWords,
     "loss", false, make_word_meter},
    {"causal_lm", "each token's next one, from rows that see no later ones", make_causal_lm_head,
     TaskRow::Targets::kNextWords, "loss", false, make_next_word_meter},
};
}  // namespace

std::span<const TaskRow> task_registry() { return kTasks; }

const TaskRow& find_task(std::string_view name) {
  std::string known;
  for (const TaskRow& row : kTasks) {
    if (name == row.name) return row;
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  fail_input("--task: expected one of {}; got '{}'", known, name);
}

}  // namespace glia

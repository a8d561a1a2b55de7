#include "experiments/tasks/task.h"

namespace glia {

std::unique_ptr<TaskMeter> make_classification_meter(Context&, const BertConfig&, int64_t);
std::unique_ptr<TaskMeter> make_masked_lm_meter(Context&, const BertConfig&, int64_t);

namespace {
constexpr TaskRow kTasks[] = {
    {"classification", "the topic of a text, from its first row", make_classification_head, false, "accuracy", true,
     make_classification_meter},
    {"masked_lm", "masked word pieces, each from its own row", make_masked_lm_head, true, "loss", false,
     make_masked_lm_meter},
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

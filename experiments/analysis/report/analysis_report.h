// An analysis to read: tables, pictures, a page.
#pragma once
#include "experiments/analysis/analysis.h"
#include "experiments/report/pictures/heatmap.h"
#include "experiments/report/tables.h"

namespace glia::results {

// A row a layer and a column a scalar metric, with a row of chance levels above; agreement between layers; each
// expert's words.
Table routing_table(const TraceAnalysis& analysis);
Table pairs_table(const TraceAnalysis& analysis);
Table words_table(const TraceAnalysis& analysis, const std::vector<std::string>& words);
Table agreement_table(const std::vector<LayerAgreement>& agreement, const std::string& other);
// Of the above those that have rows.
std::vector<Table> all_tables(const TraceAnalysis& analysis, const std::vector<std::string>& words);

// One sentence about the topic probe; "" where there is none.
std::string probe_sentence(const TraceAnalysis& analysis);

struct NamedPicture {
  std::string name, caption;
  drawing::Picture picture;
};
// Topics × experts, experts × experts, layers × layers, and the coverage curves.
std::vector<NamedPicture> pictures(const TraceAnalysis& analysis);

// A page without links to anything else.
std::string analysis_html(const TraceAnalysis& analysis, const std::vector<Table>& tables,
                          const std::vector<NamedPicture>& pictures);

}  // namespace glia::results

// Tables of a summary, defined once and rendered as aligned text, Markdown or HTML.
#pragma once
#include <string>
#include <vector>

#include "experiments/report/summary.h"

namespace glia::results {

struct Table {
  std::string title;
  std::string note;  // below the table: what the columns mean
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  // as many cells as the header; the first column is the row's name
};

// Accuracy against the study's first baseline, a further table against each other one; specialisation of the first and
// the last layer; routing by layer; the runs. Published numbers stand in them where the data set is the published one.
std::vector<Table> accuracy_tables(const Summary& summary);  // a language model's begin with its loss
bool tells_words(const Summary& summary);                    // whether that is what its runs were made for
Table accuracy_table(const Summary& summary);
// Over all tokens and, where a classifier reads the CLS row, over CLS rows alone. None without routing.
std::vector<Table> specialisation_tables(const Summary& summary);
Table routing_table(const Summary& summary);  // per configuration and layer each scalar row of the metric table
// What a token and a run cost; no rows where nobody counted. `times`: with milliseconds a step and seconds a run, which
// differ from time to time (report.html, which does not, goes without).
Table cost_table(const Summary& summary, bool times);
// Of the runs that tools/analyse has been at, with what chance would give: by layer what is counted token by token, and
// what is one number a run. No rows where it was at none.
Table analysed_layers_table(const Summary& summary);
Table analysed_runs_table(const Summary& summary);
std::vector<Table> analysis_tables(const Summary& summary);  // these two, as far as they have rows
Table runs_table(const Summary& summary);
std::vector<Table> all_tables(const Summary& summary);

std::string as_text(const Table& table);
std::string as_markdown(const Table& table);
// Names that people gave may hold what ends a table's cell or begins a tag.
std::string markdown_text(const std::string& text);
// For a spreadsheet: "mean ±se" and "low…high" in two columns each, nothing for what does not exist.
std::string as_csv(const Table& table);
std::string file_name(const Table& table);  // "Specialisation, all tokens" → specialisation-all-tokens
std::string as_html(const Table& table);    // with as_csv's text behind a link

// The terminal's view after a run or at the end: warnings, accuracy, specialisation.
std::string print_table(const Summary& summary);

// docs/results/<study>.md: what was run, warnings, all tables, and those that others have made. Never typed.
std::string results_markdown(const Summary& summary, const std::vector<Table>& further = {});
void write_results_md(const std::string& path, const Summary& summary, const std::vector<Table>& further = {});

inline constexpr const char* kAbsent = "–";  // the quantity does not exist here (experts of a dense model)
std::string number(const std::optional<double>& x, int digits);  // n/a for none
std::string format_p(const std::optional<double>& p);            // "0.031", "<0.001", "n/a"
std::string format_duration(double seconds);                     // "95.5 s", "12 min 4 s", "3 h 12 min"

// (label, value) pairs about what was run: study, protocol, data, model, training, commit, device.
std::vector<std::pair<std::string, std::string>> provenance(const Summary& summary);

}  // namespace glia::results

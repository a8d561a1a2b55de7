// results/report.html: one self-contained page (inline SVG, no network, works without scripts) to send to a
// colleague.
#pragma once
#include <optional>
#include <string>

#include "experiments/report/summary.h"

namespace glia::results {

// The page: warnings first, then tables with the published numbers, every plot, heatmaps by configuration, seed and
// layer, what was run. No date of its own: the same results give the same page.
std::string report_html(const Summary& summary, const Listing& listing);

// Everything there is to write after a finished run: <out>/summary.json, summary.csv and report.html. A folder with
// mixed protocols throws; unreadable runs become warnings at the top. `margin` of equivalence: another than Summary's.
Summary write_report(const std::string& out, std::optional<double> margin = {});

// <out>/plots/*.svg and *.png: the report's plots as files.
void write_plots(const std::string& out, const Summary& summary, const Listing& listing);

}  // namespace glia::results

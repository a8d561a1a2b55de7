// Text as it may stand in HTML and SVG: & < > " become entities.
#pragma once
#include <string>

namespace glia {

std::string html_escaped(const std::string& text);

}  // namespace glia

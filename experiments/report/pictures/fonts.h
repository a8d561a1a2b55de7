// Which installed font draws a text: DejaVu Sans wherever it has the glyphs, and for what it has not (Japanese, say) the
// nearest font that has them, by fontconfig's own order.
#pragma once
#include <string>
#include <vector>

namespace glia::drawing {

inline constexpr const char* kFont = "DejaVu Sans";

struct FontRun {
  std::string family, text;
};

// The text in runs of one font each, in order; a text of DejaVu's glyphs is one run. What no installed font has stays with
// DejaVu Sans, which draws boxes.
std::vector<FontRun> font_runs(const std::string& text);

// A sentence about the characters in the texts that no installed font has; "" where there is none.
std::string missing_font_note(const std::vector<std::string>& texts);

}  // namespace glia::drawing

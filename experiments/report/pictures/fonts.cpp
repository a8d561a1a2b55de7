#include "experiments/report/pictures/fonts.h"

#include <fontconfig/fontconfig.h>

#include <cstdint>
#include <memory>
#include <string_view>

#include "data/text/utf8.h"

namespace glia::drawing {
namespace {

// A family and the code points of its regular face.
struct Face {
  std::string family;
  const FcCharSet* characters;
};

// All fonts with outlines, the ones most like DejaVu Sans first: what was installed when the first picture was drawn.
const std::vector<Face>& faces() {
  static const std::vector<Face> all = [] {
    const std::unique_ptr<FcPattern, decltype(&FcPatternDestroy)> wanted(FcPatternCreate(), FcPatternDestroy);
    FcPatternAddString(wanted.get(), FC_FAMILY, reinterpret_cast<const FcChar8*>(kFont));
    FcConfigSubstitute(nullptr, wanted.get(), FcMatchPattern);
    FcDefaultSubstitute(wanted.get());
    FcResult result;
    // Never freed: the sets of characters belong to it.
    static const FcFontSet* const sorted = FcFontSort(nullptr, wanted.get(), FcTrue, nullptr, &result);
    std::vector<Face> found;
    for (int i = 0; sorted && i < sorted->nfont; ++i) {
      FcChar8* family = nullptr;
      FcCharSet* characters = nullptr;
      FcBool outlines = FcFalse;
      FcPatternGetBool(sorted->fonts[i], FC_SCALABLE, 0, &outlines);
      if (outlines && FcPatternGetString(sorted->fonts[i], FC_FAMILY, 0, &family) == FcResultMatch &&
          FcPatternGetCharSet(sorted->fonts[i], FC_CHARSET, 0, &characters) == FcResultMatch)
        found.push_back({reinterpret_cast<const char*>(family), characters});
    }
    return found;
  }();
  return all;
}

const Face* face_with(uint32_t code) {
  for (const Face& face : faces())
    if (FcCharSetHasChar(face.characters, code)) return &face;
  return nullptr;
}

// Calls with each code point and its bytes; ASCII and what is no UTF-8 is left to DejaVu Sans.
template <class Visit> void each_character(std::string_view text, Visit&& visit) {
  const char *at = text.data(), *const end = at + text.size();
  while (at < end) {
    const char* const begin = at;
    const uint32_t code = utf8::decode(at, end);
    visit(code, std::string_view(begin, static_cast<size_t>(at - begin)));
  }
}

bool is_plain(uint32_t code) { return code < 0x80 || code == utf8::kInvalid; }

}  // namespace

std::vector<FontRun> font_runs(const std::string& text) {
  std::vector<FontRun> runs;
  each_character(text, [&](uint32_t code, std::string_view bytes) {
    const Face* const face = is_plain(code) ? nullptr : face_with(code);
    const std::string family = face ? face->family : kFont;
    if (runs.empty() || runs.back().family != family) runs.push_back({family, ""});
    runs.back().text += bytes;
  });
  return runs;
}

std::string missing_font_note(const std::vector<std::string>& texts) {
  std::string missing;
  for (const std::string& text : texts)
    each_character(text, [&](uint32_t code, std::string_view bytes) {
      if (!is_plain(code) && !face_with(code) && missing.find(bytes) == std::string::npos) missing += bytes;
    });
  if (missing.empty()) return "";
  return "No installed font has " + missing +
         ": pictures show boxes in their place. The Debian package fonts-droid-fallback has most characters.";
}

}  // namespace glia::drawing

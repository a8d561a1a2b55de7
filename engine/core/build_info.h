// What this binary was built from; goes into the header of every log and result.
#pragma once

namespace glia {

const char* build_commit();   // git commit, 12 hex digits, or "unknown"
const char* build_variant();  // "cuda", "cpu", "cpu-plain"

}  // namespace glia

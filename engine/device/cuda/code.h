// What machine code this build holds.
#pragma once

namespace glia {

const char* built_architectures();  // "80 90a", as CUDA_ARCHS gave them
bool has_code_for_device();         // for the current device: its own, or what the driver can make it from

}  // namespace glia

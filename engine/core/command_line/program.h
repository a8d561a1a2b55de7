// What a person types to run one of our programs.
#pragma once
#include <string>
#include <string_view>

namespace glia {

// "tools/heatmap" → "./tools/heatmap" in a checkout, "glia-heatmap" where `running`, the program that says so, is an installed one.
std::string program(std::string_view path, std::string_view running);
std::string program(std::string_view path);  // of this process

}  // namespace glia

// Which device the next of many runs goes to.
#pragma once
#include <span>

namespace glia {

// Whether device `device` may begin the next run, of work `next`, or leaves it to one that will be through sooner. left[d] ≥ 0: what is
// still to be done of the runs on device d; waiting ≥ next: the work of all runs that nobody has begun. All in one unit; devices are
// equally fast. Which device has a slot free first says little of that: at the end one would do most of what is left and others nothing.
// The device with the least work may always.
bool is_turn_of(size_t device, std::span<const double> left, double next, double waiting);

}  // namespace glia

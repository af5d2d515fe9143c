// Those of candle's kernels that a worker launches, as functions of the host.
#pragma once
#include <string>

// Whether there is a kernel of that name; `parameters` point to what it was launched with.
bool run_candle(const std::string &name, void **parameters);

// One value everywhere.

#pragma once

// y[i] ← value for i < n.
KERNEL fill(T *y, float value, long long n) {
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        y[i] = from_float(value);
    }
}
EXPORT(fill)

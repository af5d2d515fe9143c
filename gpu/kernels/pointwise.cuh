// Functions of single elements. A thread computes one element.
#pragma once
#include "activation.cuh"
#include "element.cuh"

__device__ __forceinline__ long long element_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

// What `function` names; as in `Pointwise::number`.
enum { SILU = 0, GELU = 1, QUICK_GELU = 2, CLAMP_UNIT = 3 };

KERNEL pointwise(const T* x, T* y, long long count, int function) {
    long long i = element_index();
    if (i >= count) return;
    float v = to_float(x[i]), result = v;
    switch (function) {
        case SILU: result = v * sigmoid(v); break;
        case GELU: result = v * normal_cdf(v); break;
        case QUICK_GELU: result = v * sigmoid(1.702f * v); break;
        // A comparison with NaN is false: NaN stays.
        case CLAMP_UNIT: result = v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v; break;
    }
    y[i] = from_float(result);
}
EXPORT(pointwise)

KERNEL pointwise_gradient(const T* x, const T* gy, T* gx, long long count, int function) {
    long long i = element_index();
    if (i >= count) return;
    float v = to_float(x[i]), g = to_float(gy[i]), derivative = 0.0f;
    switch (function) {
        case SILU: derivative = silu_derivative(v); break;
        case GELU: derivative = gelu_derivative(v); break;
        case QUICK_GELU: derivative = silu_derivative(1.702f * v); break;
        case CLAMP_UNIT: derivative = v >= 0.0f && v <= 1.0f ? 1.0f : 0.0f; break;
    }
    gx[i] = from_float(g * derivative);
}
EXPORT(pointwise_gradient)

// y = value·gelu(gate); a row of x is `half` values, then `half` gates.
KERNEL geglu(const T* x, T* y, long long count, int half) {
    long long i = element_index();
    if (i >= count) return;
    long long value = i / half * 2 * half + i % half;
    float gate = to_float(x[value + half]);
    y[i] = from_float(to_float(x[value]) * (gate * normal_cdf(gate)));
}
EXPORT(geglu)

KERNEL geglu_gradient(const T* x, const T* gy, T* gx, long long count, int half) {
    long long i = element_index();
    if (i >= count) return;
    long long value = i / half * 2 * half + i % half;
    float v = to_float(x[value]), gate = to_float(x[value + half]), g = to_float(gy[i]);
    gx[value] = from_float(g * (gate * normal_cdf(gate)));
    gx[value + half] = from_float(g * v * gelu_derivative(gate));
}
EXPORT(geglu_gradient)

// sum = x + y, where `block` neighbours in x share an element of y, and the `period` elements of y come again and again. x and sum may be
// the same.
KERNEL sum(const T* x, const T* y, T* sum, long long count, long long block, long long period) {
    long long i = element_index();
    if (i >= count) return;
    sum[i] = from_float(to_float(x[i]) + to_float(y[i / block % period]));
}
EXPORT(sum)

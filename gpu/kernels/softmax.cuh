// The softmax of rows of logits, and its gradient. Logits are floats; probabilities are kept as elements.
#pragma once
#include "element.cuh"
#include "reduce.cuh"

// Grid: rows. p = softmax(logits + mask). Row r of the logits is query `first + r % queries` of its head; the mask, if any, is
// [all queries, keys].
KERNEL softmax(const float* logits, const T* mask, T* p, int keys, int queries, int first) {
    long long row = blockIdx.x;
    logits += row * keys;
    if (mask) mask += (first + row % queries) * keys;
    float largest = -3.402823466e38f;
    for (int i = threadIdx.x; i < keys; i += blockDim.x) largest = fmaxf(largest, logits[i] + (mask ? to_float(mask[i]) : 0.0f));
    largest = block_max(largest);
    float total = 0.0f;
    for (int i = threadIdx.x; i < keys; i += blockDim.x) total += expf(logits[i] + (mask ? to_float(mask[i]) : 0.0f) - largest);
    float inverse = 1.0f / block_sum(total);
    for (int i = threadIdx.x; i < keys; i += blockDim.x) {
        p[row * keys + i] = from_float(expf(logits[i] + (mask ? to_float(mask[i]) : 0.0f) - largest) * inverse);
    }
}
EXPORT(softmax)

// Grid: rows. ds = factor · p ∘ (dp − Σ p∘dp).
KERNEL softmax_gradient(const T* p, const float* dp, T* ds, int keys, float factor) {
    long long start = (long long)blockIdx.x * keys;
    float along = 0.0f;
    for (int i = threadIdx.x; i < keys; i += blockDim.x) along += to_float(p[start + i]) * dp[start + i];
    along = block_sum(along);
    for (int i = threadIdx.x; i < keys; i += blockDim.x) {
        ds[start + i] = from_float(to_float(p[start + i]) * (dp[start + i] - along) * factor);
    }
}
EXPORT(softmax_gradient)

// Activation functions and their derivatives, in float.
#pragma once

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// d/dx x·σ(x)
__device__ __forceinline__ float silu_derivative(float x) {
    float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

// Φ(x), the normal distribution function.
__device__ __forceinline__ float normal_cdf(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }

// d/dx x·Φ(x)
__device__ __forceinline__ float gelu_derivative(float x) {
    return normal_cdf(x) + x * 0.39894228040143268f * expf(-0.5f * x * x);
}

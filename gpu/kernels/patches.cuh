// The patches of a map that a convolution reads, as a matrix, and what a matrix of patches adds up to.
#pragma once
#include "element.cuh"
#include "pointwise.cuh"

// patches[tap][pixel], for `count` output pixels from `first`; tap = (channel·kernel + ky)·kernel + kx. Grid: pixels, taps, images.
KERNEL gather_patches(const T* x, T* patches, int height, int width, int out_width, int channels, int kernel, int stride, int padding,
                      int first, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int tap = blockIdx.y, channel = tap / (kernel * kernel), pixel = first + i;
    int row = pixel / out_width * stride - padding + tap / kernel % kernel;
    int column = pixel % out_width * stride - padding + tap % kernel;
    bool inside = row >= 0 && row < height && column >= 0 && column < width;
    const T* plane = x + ((long long)blockIdx.z * channels + channel) * height * width;
    T* own = patches + ((long long)blockIdx.z * gridDim.y + tap) * count;
    own[i] = inside ? plane[(long long)row * width + column] : from_float(0.0f);
}
EXPORT(gather_patches)

// The adjoint: every pixel of the map adds up what lies at its places in the patches [taps of these channels, output pixels]. Grid: pixels,
// channels, images; `x` begins at the first of these channels, of `all_channels`.
KERNEL collect_patches(const T* patches, T* x, int height, int width, int out_height, int out_width, int all_channels, int kernel,
                       int stride, int padding) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= height * width) return;
    int channel = blockIdx.y, row = i / width + padding, column = i % width + padding;
    long long out_pixels = (long long)out_height * out_width;
    const T* own = patches + ((long long)blockIdx.z * gridDim.y + channel) * kernel * kernel * out_pixels;
    float total = 0.0f;
    for (int ky = 0; ky < kernel; ky++) {
        int out_row = row - ky;
        if (out_row < 0 || out_row % stride || out_row / stride >= out_height) continue;
        for (int kx = 0; kx < kernel; kx++) {
            int out_column = column - kx;
            if (out_column < 0 || out_column % stride || out_column / stride >= out_width) continue;
            long long pixel = (long long)(out_row / stride) * out_width + out_column / stride;
            total += to_float(own[(ky * kernel + kx) * out_pixels + pixel]);
        }
    }
    x[((long long)blockIdx.z * all_channels + channel) * height * width + i] = from_float(total);
}
EXPORT(collect_patches)

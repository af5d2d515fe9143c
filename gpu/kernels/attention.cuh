// softmax(q kᵀ/8) v for heads of 64 features, and its gradients, without the scores in memory (Dao 2023, FlashAttention-2).
//
// q, y: [batch, queries, heads·64]; k, v: [batch, keys, heads·64]; aligned to 16 bytes. Half precision in memory and for
// factors of products; everything else in f32. A block has 64 queries of a head (for gk and gv: 64 keys), a warp 16 of them:
//
//   1. The warp's 16 rows of q become fragments and stay in registers, as does the sum of its 16 rows of y.
//   2. The block copies the next 64 keys and values to shared memory; beyond the last there are zeros.
//   3. The warp multiplies its rows with these keys: 16×64 logits, through shared memory, for a row's largest has to be found.
//   4. Two lanes per row find it, exponentiate, add up. If it grew, the row of y so far has to shrink: by a factor that lies
//      in shared memory, where the lanes that hold the row's sums find it.
//   5. The probabilities, rounded, take the logits' place; their product with the values is added to y. On to 2.
//   6. y is divided by its row's total, rounded once and written; the row's log-sum-exp is kept for the gradients.
//
// Backward, probabilities come at once from the log-sum-exp. With dP = gy vᵀ and D = rowsum(gy ∘ y): dS = P ∘ (dP − D),
// gq = dS k/8, gk = dSᵀ q/8, gv = Pᵀ gy. One kernel walks along the keys for gq, another along the queries for gk and gv, each
// computing P and dP again: nothing is added atomically, so every run gives the same bits.
//
// Small numbers: a half has 2⁻¹⁴ as its smallest normal number, and gradients may be small, the more so P ∘ gradients. As in
// FlashAttention, 1/8 is multiplied after the products, in f32. Beyond that, P in gv is scaled by 2¹⁵, and dS of a head by a
// number so large that its greatest possible element, 2·64·max|gy|·max|v|, becomes 2¹⁵; both are taken back in f32.

#pragma once

#include "fragment.cuh"

#ifdef HAS_FRAGMENTS

namespace attention {

using namespace fragment;

// Features of a head.
constexpr int SIZE = 64;
// Queries or keys of a tile, and from one row to the next in shared memory: rows begin four banks apart (eight, of floats).
constexpr int TILE = 64;
constexpr int STRIDE = TILE + 8;
constexpr int WARPS = TILE / SIDE;
constexpr int THREADS = 32 * WARPS;
// Fragments along a tile or a head.
constexpr int PARTS = SIZE / SIDE;

constexpr float SCALE = 0.125f;
constexpr float LOG2_E = 1.44269504f;
constexpr float LN_2 = 0.693147181f;
// exp(x/8) = 2^(x·EXPONENT_SCALE)
constexpr float EXPONENT_SCALE = SCALE * LOG2_E;
// Of probabilities, which are 1 at most, so that rounding to half keeps small ones.
constexpr float PROBABILITY_RANGE = 32768;

// Where a head of a batch item begins in [batch, n, heads·64].
__device__ __forceinline__ long long head_start(int item, int head, int n, int heads) {
    return ((long long)item * n * heads + head) * SIZE;
}

// Copies up to 64 rows from `first` of a head to shared memory; zeros beyond row n.
__device__ __forceinline__ void load_tile(T *tile, const T *head, int first, int n, int width) {
#pragma unroll
    for (int turn = 0; turn < TILE * SIZE / 8 / THREADS; turn++) {
        const int i = turn * THREADS + threadIdx.x, row = i / 8, column = i % 8 * 8;
        uint4 eight = make_uint4(0, 0, 0, 0);
        if (first + row < n) eight = *(const uint4 *)(head + (long long)(first + row) * width + column);
        *(uint4 *)(tile + row * STRIDE + column) = eight;
    }
}

// The 16 rows of this warp in a tile.
__device__ __forceinline__ void load_rows(Left (&rows)[PARTS], const T *tile) {
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        load(rows[part], tile + threadIdx.x / 32 * SIDE * STRIDE + part * SIDE, STRIDE);
    }
}

__device__ __forceinline__ void clear(Sum (&sums)[PARTS]) {
#pragma unroll
    for (int part = 0; part < PARTS; part++) wmma::fill_fragment(sums[part], 0.0f);
}

// sum ← left·tileᵀ, for 16 rows of the tile.
__device__ __forceinline__ void multiply_transposed(Sum &sum, const Left (&left)[PARTS], const T *tile) {
    wmma::fill_fragment(sum, 0.0f);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        RightTransposed right;
        load(right, tile + part * SIDE, STRIDE);
        wmma::mma_sync(sum, left[part], right, sum);
    }
}

// sums ← sums + left·tile, for 16 columns of `left`, at these 16 rows of the tile.
__device__ __forceinline__ void multiply_add(Sum (&sums)[PARTS], const T *left, const T *tile) {
    Left factor;
    load(factor, left, STRIDE);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        Right right;
        load(right, tile + part * SIDE, STRIDE);
        wmma::mma_sync(sums[part], factor, right, sums[part]);
    }
}

// Writes 16 rows of a head from `first`, those below n, each element of row i scaled by scale(i).
template <class Scale>
__device__ __forceinline__ void store_rows(T *head, const Sum (&sums)[PARTS], const Positions &at, int first, int n, int width,
                                           Scale scale) {
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int row = at.row(i);
        if (first + row >= n) continue;
        T *const target = head + (long long)(first + row) * width + at.column(i);
#pragma unroll
        for (int part = 0; part < PARTS; part++) target[part * SIDE] = from_float(sums[part].x[i] * scale(row));
    }
}

// Grid: queries/64 rounded up, heads, batch; 128 threads. lse: [batch, heads, queries], the logarithm of the sum of a row's
// exponentials; or null.
KERNEL attention_forward(T *__restrict__ y, float *__restrict__ lse, const T *__restrict__ q, const T *__restrict__ k,
                         const T *__restrict__ v, int heads, int queries, int keys) {
    __shared__ __align__(128) T k_tile[TILE * STRIDE], v_tile[TILE * STRIDE];
    __shared__ __align__(128) float logits[TILE * STRIDE];
    __shared__ float factors[TILE];
    const int head = blockIdx.y, item = blockIdx.z, width = heads * SIZE;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * TILE;
    q += head_start(item, head, queries, heads);
    y += head_start(item, head, queries, heads);
    k += head_start(item, head, keys, heads);
    v += head_start(item, head, keys, heads);
    float *const warp_logits = logits + warp * SIDE * STRIDE, *const warp_factors = factors + warp * SIDE;
    T *const probabilities = (T *)warp_logits;
    // Of the two lanes of a row each has every other four columns.
    const int row = lane / 2, start = lane % 2 * 4;

    const Positions at(logits);
    load_tile(k_tile, q, first, queries, width);
    __syncthreads();
    Left q_rows[PARTS];
    load_rows(q_rows, k_tile);
    Sum sums[PARTS];
    clear(sums);
    float largest = -INFINITY, total = 0;
    for (int key = 0; key < keys; key += TILE) {
        __syncthreads();
        load_tile(k_tile, k, key, keys, width);
        load_tile(v_tile, v, key, keys, width);
        __syncthreads();
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            Sum products;
            multiply_transposed(products, q_rows, k_tile + part * SIDE * STRIDE);
            wmma::store_matrix_sync(warp_logits + part * SIDE, products, STRIDE, wmma::mem_row_major);
        }
        __syncwarp();
        float p[TILE / 2], known = largest;
#pragma unroll
        for (int i = 0; i < TILE / 2; i += 4) {
            const float4 four = *(const float4 *)(warp_logits + row * STRIDE + start + 2 * i);
            p[i] = four.x, p[i + 1] = four.y, p[i + 2] = four.z, p[i + 3] = four.w;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (key + start + 2 * i + j >= keys) p[i + j] = -INFINITY;
                largest = fmaxf(largest, p[i + j]);
            }
        }
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 1));
        __syncwarp();  // all logits are read, before probabilities take their place
        const float factor = exp2f((known - largest) * EXPONENT_SCALE);
        if (start == 0) warp_factors[row] = factor;
        total *= factor;
#pragma unroll
        for (int i = 0; i < TILE / 2; i += 4) {
            __align__(8) T four[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float x = exp2f((p[i + j] - largest) * EXPONENT_SCALE);
                total += x;
                four[j] = from_float(x);
            }
            *(uint2 *)(probabilities + row * STRIDE + start + 2 * i) = *(const uint2 *)four;
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const float shrink = warp_factors[at.row(i)];
#pragma unroll
            for (int part = 0; part < PARTS; part++) sums[part].x[i] *= shrink;
        }
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            multiply_add(sums, probabilities + part * SIDE, v_tile + part * SIDE * STRIDE);
        }
    }
    total += __shfl_xor_sync(0xffffffff, total, 1);
    __syncwarp();
    if (start == 0) warp_factors[row] = 1 / total;
    __syncwarp();
    const int warp_first = first + warp * SIDE;
    store_rows(y, sums, at, warp_first, queries, width, [=](int row) { return warp_factors[row]; });
    if (lse && start == 0 && warp_first + row < queries) {
        lse[((long long)item * heads + head) * queries + warp_first + row] = largest * SCALE + logf(total);
    }
}
EXPORT(attention_forward)

// What is not finite makes NaN of what depends on it, and shall not spoil the range of the rest.
__device__ __forceinline__ float larger_if_finite(float most, float x) {
    return fabsf(x) < INFINITY ? fmaxf(most, fabsf(x)) : most;
}

// What the gradients need of a head beside the log-sum-exp. correlations: rowsum(gy ∘ y), [batch, heads, queries]; ranges: by
// what dS is multiplied before it is rounded, [batch, heads]. Grid: heads, batch; any number of threads.
KERNEL attention_correlations(float *__restrict__ correlations, float *__restrict__ ranges, const T *__restrict__ y,
                              const T *__restrict__ gy, const T *__restrict__ v, int heads, int queries, int keys) {
    __shared__ float largest_gy[32], largest_v[32];
    const int head = blockIdx.x, item = blockIdx.y, width = heads * SIZE, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    y += head_start(item, head, queries, heads);
    gy += head_start(item, head, queries, heads);
    v += head_start(item, head, keys, heads);
    correlations += ((long long)item * heads + head) * queries;
    // Eight lanes have a row.
    const int step = blockDim.x / 8, column = lane % 8 * 8;
    float most_gy = 0, most_v = 0;
    for (int first = 0; first < queries; first += step) {
        const int row = first + threadIdx.x / 8;
        float sum = 0;
        if (row < queries) {
            __align__(16) T a[8], b[8];
            *(uint4 *)a = *(const uint4 *)(gy + (long long)row * width + column);
            *(uint4 *)b = *(const uint4 *)(y + (long long)row * width + column);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                sum += to_float(a[i]) * to_float(b[i]);
                most_gy = larger_if_finite(most_gy, to_float(a[i]));
            }
        }
        for (int lanes = 4; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffff, sum, lanes);
        if (column == 0 && row < queries) correlations[row] = sum;
    }
    for (int row = threadIdx.x / 8; row < keys; row += step) {
        __align__(16) T a[8];
        *(uint4 *)a = *(const uint4 *)(v + (long long)row * width + column);
#pragma unroll
        for (int i = 0; i < 8; i++) most_v = larger_if_finite(most_v, to_float(a[i]));
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        most_gy = fmaxf(most_gy, __shfl_xor_sync(0xffffffff, most_gy, lanes));
        most_v = fmaxf(most_v, __shfl_xor_sync(0xffffffff, most_v, lanes));
    }
    if (lane == 0) largest_gy[warp] = most_gy, largest_v[warp] = most_v;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int i = 1; i < (int)blockDim.x / 32; i++) {
        most_gy = fmaxf(most_gy, largest_gy[i]);
        most_v = fmaxf(most_v, largest_v[i]);
    }
    // A number that can be multiplied and divided by, even if all gradients are 0.
    ranges[item * heads + head] = fminf(fmaxf(32768 / (2 * SIZE) / most_gy / most_v, 1e-30f), 1e30f);
}
EXPORT(attention_correlations)

// Grid: queries/64 rounded up, heads, batch; 128 threads.
KERNEL attention_backward_q(T *__restrict__ gq, const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v,
                            const T *__restrict__ gy, const float *__restrict__ lse, const float *__restrict__ correlations,
                            const float *__restrict__ ranges, int heads, int queries, int keys) {
    __shared__ __align__(128) T k_tile[TILE * STRIDE], v_tile[TILE * STRIDE], ds_tile[TILE * STRIDE];
    const int head = blockIdx.y, item = blockIdx.z, width = heads * SIZE, warp = threadIdx.x / 32;
    const int first = blockIdx.x * TILE, warp_first = first + warp * SIDE;
    q += head_start(item, head, queries, heads);
    gy += head_start(item, head, queries, heads);
    gq += head_start(item, head, queries, heads);
    k += head_start(item, head, keys, heads);
    v += head_start(item, head, keys, heads);
    T *const ds = ds_tile + warp * SIDE * STRIDE;
    const float range = ranges[item * heads + head];

    const Positions at((float *)ds_tile);
    load_tile(k_tile, q, first, queries, width);
    load_tile(v_tile, gy, first, queries, width);
    __syncthreads();
    Left q_rows[PARTS], gy_rows[PARTS];
    load_rows(q_rows, k_tile);
    load_rows(gy_rows, v_tile);
    float exponent[HELD], correlation[HELD];
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int query = warp_first + at.row(i);
        const long long index = ((long long)item * heads + head) * queries + query;
        exponent[i] = query < queries ? lse[index] * LOG2_E : INFINITY;
        correlation[i] = query < queries ? correlations[index] : 0;
    }
    Sum sums[PARTS];
    clear(sums);
    for (int key = 0; key < keys; key += TILE) {
        __syncthreads();
        load_tile(k_tile, k, key, keys, width);
        load_tile(v_tile, v, key, keys, width);
        __syncthreads();
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            Sum logits, dp;
            multiply_transposed(logits, q_rows, k_tile + part * SIDE * STRIDE);
            multiply_transposed(dp, gy_rows, v_tile + part * SIDE * STRIDE);
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                const int column = part * SIDE + at.column(i);
                const float p = exp2f(logits.x[i] * EXPONENT_SCALE - exponent[i]);
                const float gradient = key + column < keys ? p * (dp.x[i] - correlation[i]) * range : 0;
                ds[at.row(i) * STRIDE + column] = from_float(gradient);
            }
        }
        __syncwarp();
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            multiply_add(sums, ds + part * SIDE, k_tile + part * SIDE * STRIDE);
        }
    }
    store_rows(gq, sums, at, warp_first, queries, width, [=](int) { return SCALE / range; });
}
EXPORT(attention_backward_q)

// Grid: keys/64 rounded up, heads, batch; 128 threads. A tile of queries and gradients passes by 64 keys and values; logits
// and all that follows are transposed, a row to a key.
KERNEL attention_backward_kv(T *__restrict__ gk, T *__restrict__ gv, const T *__restrict__ q, const T *__restrict__ k,
                             const T *__restrict__ v, const T *__restrict__ gy, const float *__restrict__ lse,
                             const float *__restrict__ correlations, const float *__restrict__ ranges, int heads, int queries,
                             int keys) {
    __shared__ __align__(128) T q_tile[TILE * STRIDE], gy_tile[TILE * STRIDE];
    __shared__ __align__(128) T p_tile[TILE * STRIDE], ds_tile[TILE * STRIDE];
    __shared__ float exponent[TILE], correlation[TILE];
    const int head = blockIdx.y, item = blockIdx.z, width = heads * SIZE, warp = threadIdx.x / 32;
    const int first = blockIdx.x * TILE, warp_first = first + warp * SIDE;
    q += head_start(item, head, queries, heads);
    gy += head_start(item, head, queries, heads);
    k += head_start(item, head, keys, heads);
    v += head_start(item, head, keys, heads);
    gk += head_start(item, head, keys, heads);
    gv += head_start(item, head, keys, heads);
    lse += ((long long)item * heads + head) * queries;
    correlations += ((long long)item * heads + head) * queries;
    T *const p_rows = p_tile + warp * SIDE * STRIDE, *const ds = ds_tile + warp * SIDE * STRIDE;
    const float range = ranges[item * heads + head];

    const Positions at((float *)ds_tile);
    load_tile(q_tile, k, first, keys, width);
    load_tile(gy_tile, v, first, keys, width);
    __syncthreads();
    Left k_rows[PARTS], v_rows[PARTS];
    load_rows(k_rows, q_tile);
    load_rows(v_rows, gy_tile);
    Sum k_sums[PARTS], v_sums[PARTS];
    clear(k_sums);
    clear(v_sums);
    for (int query = 0; query < queries; query += TILE) {
        __syncthreads();
        load_tile(q_tile, q, query, queries, width);
        load_tile(gy_tile, gy, query, queries, width);
        if (threadIdx.x < TILE) {
            const int i = query + threadIdx.x;
            // Beyond the last query probabilities are 0.
            exponent[threadIdx.x] = i < queries ? lse[i] * LOG2_E : INFINITY;
            correlation[threadIdx.x] = i < queries ? correlations[i] : 0;
        }
        __syncthreads();
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            Sum logits, dp;
            multiply_transposed(logits, k_rows, q_tile + part * SIDE * STRIDE);
            multiply_transposed(dp, v_rows, gy_tile + part * SIDE * STRIDE);
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                const int column = part * SIDE + at.column(i), offset = at.row(i) * STRIDE + column;
                const float p = exp2f(logits.x[i] * EXPONENT_SCALE - exponent[column]);
                p_rows[offset] = from_float(p * PROBABILITY_RANGE);
                ds[offset] = from_float(p * (dp.x[i] - correlation[column]) * range);
            }
        }
        __syncwarp();
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            multiply_add(v_sums, p_rows + part * SIDE, gy_tile + part * SIDE * STRIDE);
            multiply_add(k_sums, ds + part * SIDE, q_tile + part * SIDE * STRIDE);
        }
    }
    store_rows(gk, k_sums, at, warp_first, keys, width, [=](int) { return SCALE / range; });
    store_rows(gv, v_sums, at, warp_first, keys, width, [=](int) { return 1 / PROBABILITY_RANGE; });
}
EXPORT(attention_backward_kv)

} // namespace attention

#endif
